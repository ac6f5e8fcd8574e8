import math

import numpy as np
import pytest

from degradations.weather import (
    HazeParams,
    HazeRanges,
    RainParams,
    RainRanges,
    apply_haze,
    apply_rain,
    draw_haze,
    draw_rain,
)

RAIN = RainParams(
    angle_deg=0, alpha=0.9, beta_level=0.8, drop_fraction=5 / 256, length_px=50, seed=7
)
HAZE = HazeParams(beta=0.12, airlight=0.8)
KERNELS = [
    pytest.param(apply_rain, RAIN, id="rain"),
    pytest.param(apply_haze, HAZE, id="haze"),
]


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((48, 64, channels), dtype=np.float32)


def streaks(angle_deg: float) -> np.ndarray:
    black = np.zeros((64, 64, 3), dtype=np.float32)
    return apply_rain(black, RAIN.model_copy(update={"angle_deg": angle_deg}))[..., 0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_shape(apply, params, channels):
    changed = apply(picture(channels), params)
    assert changed.shape == (48, 64, channels)
    assert changed.dtype == np.float32


@pytest.mark.parametrize(("apply", "params"), KERNELS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_range(apply, params, value):
    changed = apply(np.full((48, 64, 3), value, dtype=np.float32), params)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_known_values_rain():
    # Streaks are stretched to 0..255, so black becomes 0.8 to 25.5 + 0.8 levels.
    levels = streaks(0) * 255
    assert levels.min() == pytest.approx(0.8, abs=1e-4)
    assert levels.max() == pytest.approx(26.3, abs=1e-4)


def test_known_values_rain_slope_and_offset():
    # Spec 3.5, VI Rain: slope 0.895 to 0.899, median offset 4 to 5 levels.
    dark, bright = (np.full((240, 320, 3), level / 255, np.float32) for level in (50, 150))
    dark_rain, bright_rain = apply_rain(dark, RAIN) * 255, apply_rain(bright, RAIN) * 255
    np.testing.assert_allclose(bright_rain - dark_rain, 90, atol=1e-3)
    assert 3 < np.median(dark_rain - 45) < 6


@pytest.mark.parametrize(
    ("row", "col", "depth"), [(99, 299, 17.0), (199, 299, 13.0), (99, 399, 13.0), (479, 639, 0.0)]
)
def test_known_values_haze(row, col, depth):
    hazy = apply_haze(np.full((480, 640, 3), 0.25, dtype=np.float32), HAZE)
    t = math.exp(-0.12 * depth)
    np.testing.assert_allclose(hazy[row, col], 0.25 * t + 0.8 * (1 - t), atol=1e-5)


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
        pytest.param(
            apply_rain, RAIN.model_copy(update={"alpha": 1.0, "beta_level": 0.0}), id="rain"
        ),
        pytest.param(apply_haze, HAZE.model_copy(update={"beta": 0.0}), id="haze"),
    ],
)
def test_identity_at_zero(apply, params):
    image = picture()
    same = apply(image, params)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_angle_zero_falls_straight_down():
    def roughness(image: np.ndarray) -> float:
        return np.abs(np.diff(image, axis=0)).mean() / np.abs(np.diff(image, axis=1)).mean()

    assert roughness(streaks(0)) < 0.3
    assert roughness(streaks(90)) > 3


def test_a_positive_angle_turns_the_streaks_anticlockwise():
    image = streaks(45)
    down_right = np.abs(image[1:, 1:] - image[:-1, :-1]).mean()
    down_left = np.abs(image[1:, :-1] - image[:-1, 1:]).mean()
    assert down_right < 0.5 * down_left


def test_rain_without_a_drop_is_only_a_veil():
    image = picture()
    dry = apply_rain(image, RAIN.model_copy(update={"drop_fraction": 0.0}))
    np.testing.assert_allclose(dry, image * 0.9 + 0.8 / 255, atol=1e-6)


def test_haze_looks_alike_at_every_size():
    grey = np.full((480, 640, 3), 0.25, dtype=np.float32)
    large = apply_haze(grey, HAZE)
    small = apply_haze(grey[:48, :64], HAZE)
    np.testing.assert_allclose(small, large[9::10, 9::10], atol=1e-5)


def test_draws_stay_in_the_ranges():
    rng = np.random.default_rng(0)
    rains = [draw_rain(RainRanges(), rng) for _ in range(200)]
    assert all(-45 <= rain.angle_deg <= 45 for rain in rains)
    assert max(rain.angle_deg for rain in rains) > 35
    assert len({rain.seed for rain in rains}) == 200
    assert draw_haze(HazeRanges(), rng) == HAZE
    assert 0.05 <= draw_haze(HazeRanges(beta_range=(0.05, 0.1)), rng).beta <= 0.1
