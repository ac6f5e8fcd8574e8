import numpy as np
import pytest

from degradations.resolution import (
    LowResolutionParams,
    LowResolutionRanges,
    apply_low_resolution,
    draw_low_resolution,
)

PARAMS = LowResolutionParams(factor=4)


def picture(channels: int, height: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((height, 32, channels), dtype=np.float32)


@pytest.mark.parametrize("height", [3, 21, 24])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape(channels, height):
    coarse = apply_low_resolution(picture(channels, height), PARAMS)
    assert coarse.shape == (height, 32, channels)
    assert coarse.dtype == np.float32


def test_range():
    for level in (0.0, 1 / 3, 1.0):
        flat = np.full((9, 9, 1), level, dtype=np.float32)
        np.testing.assert_array_equal(apply_low_resolution(flat, PARAMS), flat)


def test_known_values():
    image = np.arange(6, dtype=np.float32).reshape(1, 6, 1) / 10
    expected = np.array([0.05, 0.05, 0.25, 0.25, 0.45, 0.45]).reshape(1, 6, 1)
    coarse = apply_low_resolution(image, LowResolutionParams(factor=2))
    np.testing.assert_allclose(coarse, expected, atol=1e-7)
    # The last block is cut by the edge: the mean of the two pixels that it has.
    coarse = apply_low_resolution(image, PARAMS)
    expected = np.array([0.15] * 4 + [0.45] * 2).reshape(1, 6, 1)
    np.testing.assert_allclose(coarse, expected, atol=1e-7)


def test_known_values_are_block_means():
    image = picture(3)
    means = image.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(apply_low_resolution(image, PARAMS)[::4, ::4], means, atol=1e-6)


def test_deterministic():
    image = picture(3)
    before = image.copy()
    first = apply_low_resolution(image, PARAMS)
    assert first.tobytes() == apply_low_resolution(image, PARAMS).tobytes()
    assert image.tobytes() == before.tobytes()


def test_identity_at_zero():
    image = picture(3)
    same = apply_low_resolution(image, LowResolutionParams(factor=1))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_twice_is_once():
    once = apply_low_resolution(picture(1), PARAMS)
    np.testing.assert_allclose(apply_low_resolution(once, PARAMS), once, atol=1e-7)


def test_draws_stay_in_the_range():
    rng = np.random.default_rng(0)
    ranges = LowResolutionRanges(factor_range=(2, 4))
    assert {draw_low_resolution(ranges, rng).factor for _ in range(60)} == {2, 3, 4}
    assert draw_low_resolution(LowResolutionRanges(), rng).factor == 4
    with pytest.raises(ValueError, match="factor"):
        LowResolutionParams(factor=0)
    with pytest.raises(ValueError, match="factor_range"):
        LowResolutionRanges(factor_range=(0, 4))
