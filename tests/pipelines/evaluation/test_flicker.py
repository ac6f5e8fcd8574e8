import cv2
import numpy as np
import pytest

from pipelines.evaluation.flicker import flicker

SIZE = (96, 128)


def scene(shift: int) -> np.ndarray:
    """A smooth texture that moves to the right."""
    wide = np.random.default_rng(0).random((SIZE[0], SIZE[1] + 40)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(wide, (0, 0), 3), None, 60, 190, cv2.NORM_MINMAX)
    window = np.rint(texture[:, 40 - shift : 40 - shift + SIZE[1]]).astype(np.uint8)
    return np.repeat(window[:, :, None], 3, axis=2)


def test_what_moves_with_the_scene_does_not_flicker() -> None:
    frames = [scene(shift) for shift in (0, 3, 6)]
    still = [scene(0)] * 3
    assert list(flicker(zip(still, still, strict=True))) == pytest.approx([0, 0], abs=1e-3)
    steady = list(flicker(zip(frames, frames, strict=True)))
    # Frames that are as different as these, without the motion that explains it.
    unexplained = list(flicker(zip(frames, still, strict=True)))
    assert max(steady) < 4 < 0.05 * min(unexplained)


def test_a_brightness_that_jumps_is_its_square() -> None:
    vi = [scene(0)] * 3
    fused = [frame + np.uint8(level) for frame, level in zip(vi, (0, 10, 10), strict=True)]
    grey = [frame[:, :, :1] for frame in fused]
    for frames in (fused, grey):
        first, second = flicker(zip(frames, vi, strict=True))
        assert first == pytest.approx(100, rel=0.02)
        assert second == pytest.approx(0, abs=1e-3)


def test_nothing_in_common_is_no_number() -> None:
    from pipelines.evaluation import flicker as module

    away = np.full((*SIZE, 2), 1000, np.float32)
    assert not module._visible(away, -away).any()
