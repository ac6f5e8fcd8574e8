import numpy as np
import pytest

from degradations.exposure import (
    ExposureParams,
    LowContrastParams,
    LowContrastRanges,
    LowLightRanges,
    OverExposureRanges,
    apply_exposure,
    apply_low_contrast,
    draw_exposure,
    draw_low_contrast,
)

KERNELS = [
    pytest.param(apply_exposure, ExposureParams(gain=0.5, gamma=1.8), id="low_light"),
    pytest.param(apply_exposure, ExposureParams(gain=1.5, gamma=0.5), id="over_exposure"),
    pytest.param(
        apply_low_contrast, LowContrastParams(slope=0.6, offset_level=120), id="low_contrast"
    ),
]


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((24, 32, channels), dtype=np.float32)


def pixel(value: float) -> np.ndarray:
    return np.full((1, 1, 1), value, dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_shape(apply, params, channels):
    changed = apply(picture(channels), params)
    assert changed.shape == (24, 32, channels)
    assert changed.dtype == np.float32


@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_range(apply, params):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    changed = apply(ramp, params)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (np.diff(changed.ravel()) >= 0).all()


@pytest.mark.parametrize(
    ("apply", "params", "value", "expected"),
    [
        (apply_exposure, ExposureParams(gain=0.5, gamma=2.0), 0.6, 0.18),
        (apply_exposure, ExposureParams(gain=1.5, gamma=0.5), 0.16, 0.6),
        (apply_exposure, ExposureParams(gain=1.5, gamma=0.5), 0.49, 1.0),
        (apply_low_contrast, LowContrastParams(slope=0.5, offset_level=90), 100 / 255, 140 / 255),
        (apply_low_contrast, LowContrastParams(slope=0.9, offset_level=90), 1.0, 1.0),
        (apply_low_contrast, LowContrastParams(slope=0.5, offset_level=-90), 0.1, 0.0),
    ],
)
def test_known_values(apply, params, value, expected):
    assert apply(pixel(value), params).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_deterministic(apply, params):
    image = picture()
    before = image.copy()
    first = apply(image, params)
    assert first.tobytes() == apply(image, params).tobytes()
    assert image.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("apply", "params"),
    [
        pytest.param(apply_exposure, ExposureParams(gain=1, gamma=1), id="exposure"),
        pytest.param(
            apply_low_contrast, LowContrastParams(slope=1, offset_level=0), id="low_contrast"
        ),
    ],
)
def test_identity_at_zero(apply, params):
    image = picture()
    same = apply(image, params)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_low_light_darkens_a_target_like_the_captured_files():
    # Spec 3.4: targets of mean 71 to 109 beside captured files of mean 19 to 37.
    target = np.random.default_rng(0).beta(1.1, 2.0, (64, 64, 3)).astype(np.float32)
    assert 71 < target.mean() * 255 < 109
    rng = np.random.default_rng(0)
    means = [
        apply_exposure(target, draw_exposure(LowLightRanges(), rng)).mean() * 255
        for _ in range(100)
    ]
    assert 19 < np.mean(means) < 37
    assert min(means) > 14
    assert max(means) < 50


def test_draws_stay_in_the_ranges():
    rng = np.random.default_rng(0)
    bright = [draw_exposure(OverExposureRanges(), rng) for _ in range(100)]
    assert all(1.1 <= draw.gain <= 1.5 and 0.5 <= draw.gamma <= 0.8 for draw in bright)
    pale = [draw_low_contrast(LowContrastRanges(), rng) for _ in range(100)]
    assert all(0.4 <= draw.slope <= 0.6 and 80 <= draw.offset_level <= 100 for draw in pale)
    assert len({draw.slope for draw in pale}) == 100


def test_default_low_contrast_clips_nothing():
    ranges = LowContrastRanges()
    assert ranges.slope_range[1] * 255 + ranges.offset_range_level[1] <= 255
    assert ranges.offset_range_level[0] >= 0
