import numpy as np
import pytest

from degradations.blur import BlurParams, BlurRanges, GaussianBlurRanges, apply_blur, draw_blur

PARAMS = BlurParams(size_px=21, sigma_px=2.0)


def picture(channels: int) -> np.ndarray:
    return np.random.default_rng(1).random((24, 32, channels), dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_shape(channels):
    blurred = apply_blur(picture(channels), PARAMS)
    assert blurred.shape == (24, 32, channels)
    assert blurred.dtype == np.float32


@pytest.mark.parametrize("sigma_px", [0.2, 4.0])
def test_range(sigma_px):
    extremes = (picture(3) > 0.5).astype(np.float32)
    blurred = apply_blur(extremes, BlurParams(size_px=21, sigma_px=sigma_px))
    assert blurred.min() >= 0
    assert blurred.max() <= 1


def test_known_values():
    dot = np.zeros((31, 31, 1), dtype=np.float32)
    dot[15, 15] = 1
    profile = np.exp(-(np.arange(-10, 11) ** 2) / (2 * 2.0**2))
    profile /= profile.sum()
    expected = np.zeros((31, 31))
    expected[5:26, 5:26] = np.outer(profile, profile)
    np.testing.assert_allclose(apply_blur(dot, PARAMS)[..., 0], expected, atol=1e-6)


def test_deterministic():
    image = picture(3)
    before = image.copy()
    first = apply_blur(image, PARAMS)
    assert first.tobytes() == apply_blur(image, PARAMS).tobytes()
    assert image.tobytes() == before.tobytes()


def test_identity_at_zero():
    image = picture(3)
    same = apply_blur(image, BlurParams(size_px=21, sigma_px=0))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_blur_is_linear():
    a, b = picture(1), picture(1)[::-1].copy()
    mixed = apply_blur(0.25 * a + 0.5 * b, PARAMS)
    separate = 0.25 * apply_blur(a, PARAMS) + 0.5 * apply_blur(b, PARAMS)
    np.testing.assert_allclose(mixed, separate, atol=1e-6)


def test_an_image_smaller_than_the_kernel_is_mirrored():
    flat = np.full((8, 8, 3), 0.4, dtype=np.float32)
    np.testing.assert_allclose(apply_blur(flat, PARAMS), flat, atol=1e-6)


def test_draw_stays_in_the_ranges():
    rng = np.random.default_rng(0)
    sigmas = [draw_blur(BlurRanges(), rng).sigma_px for _ in range(200)]
    assert 0.2 <= min(sigmas) < 0.6
    assert 3.6 < max(sigmas) <= 4.0


def test_the_blur_of_drfusion_is_the_whole_gaussian():
    # DRFusion spec 5: the transfer function is that of sigma 2.0, which a cut kernel would miss.
    params = draw_blur(GaussianBlurRanges(), np.random.default_rng(0))
    assert params.sigma_px == 2.0
    dot = np.zeros((64, 64, 1), dtype=np.float32)
    dot[32, 32] = 1
    transfer = np.abs(np.fft.fft2(apply_blur(dot, params)[..., 0]))
    frequency = np.fft.fftfreq(64)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    np.testing.assert_allclose(transfer, np.exp(-2 * (np.pi * 2.0) ** 2 * squared), atol=1e-4)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"sigma_range_px": (4.0, 0.2)}, "not low <= high"),
        ({"sigma_range_px": (-1.0, 0.2)}, "begins below zero"),
        ({"sigma_range_px": (0.2, float("nan"))}, "not low <= high"),
        ({"size_px": 20}, "must be odd"),
        ({"sigma": 2.0}, "sigma"),
    ],
)
def test_wrong_ranges_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        BlurRanges(**ranges)
