"""Poor targets: each measure tells its fault, on rendered and on real pairs."""

import cv2
import numpy as np
import pytest

from pipelines.checks.targets import Bounds, measure_quality, poor_reasons
from pipelines.sources.pictures import decode_ir, decode_vi
from tests.conftest import SHARED_DATA, needs_data

MSRS = SHARED_DATA / "ivif" / "msrs"


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pair with common edges: boxes that are brighter in one camera and darker in the other."""
    rng = np.random.default_rng(seed)
    vi, ir = np.full((240, 320), 120, np.uint8), np.full((240, 320), 60, np.uint8)
    for _ in range(40):
        x, y, w, h = rng.integers((0, 0, 8, 8), (300, 220, 60, 60))
        for image in (vi, ir):
            image[y : y + h, x : x + w] = rng.integers(20, 230)
    return vi[:, :, None].repeat(3, axis=2), ir[:, :, None]


def poor(vi: np.ndarray, ir: np.ndarray) -> set[str]:
    return set(poor_reasons(measure_quality({"vi": vi, "ir": ir}), Bounds()))


def test_each_fault_is_told_by_its_measure() -> None:
    vi, ir = scene()
    rng = np.random.default_rng(1)
    noisy = np.clip(vi + rng.normal(0, 20, vi.shape), 0, 255).astype(np.uint8)
    assert poor(vi, ir) == set()
    assert "dark" in poor(vi // 16, ir)
    assert "clipped" in poor(np.where(vi > 100, 255, vi).astype(np.uint8), ir)
    assert "noisy" in poor(noisy, ir)
    assert "blurred" in poor(cv2.GaussianBlur(vi, (0, 0), 6), ir)
    assert "offset_px" in poor(vi, np.roll(ir, (5, 12), (0, 1)))
    assert "agreement" in poor(vi, scene(9)[1])


def test_the_offset_is_that_of_the_cameras() -> None:
    vi, ir = scene()
    for down, right in ((0, 0), (6, -9), (-12, 4)):
        quality = measure_quality({"vi": vi, "ir": np.roll(ir, (down, right), (0, 1))})
        assert quality.offset_px == pytest.approx(np.hypot(down, right), abs=1.5)


def test_one_camera_and_a_flat_picture() -> None:
    vi, ir = scene()
    alone = measure_quality({"ir": ir})
    assert (alone.dark, alone.offset_px, alone.agreement) == (None, None, None)
    flat = measure_quality({"vi": vi, "ir": np.full_like(ir, 7)})
    assert (flat.agreement, flat.blurred) == (0, 1)


@needs_data
def test_real_pairs_agree_and_shuffled_ones_do_not() -> None:
    names = ["00001D", "00024N", "00047N"]
    vi = [decode_vi((MSRS / "val" / "vi" / f"{name}.png").read_bytes(), name) for name in names]
    ir = [decode_ir((MSRS / "val" / "ir" / f"{name}.png").read_bytes(), name) for name in names]
    agreed = [measure_quality({"vi": a, "ir": b}).agreement for a, b in zip(vi, ir, strict=True)]
    mixed = [
        measure_quality({"vi": a, "ir": b}).agreement
        for a, b in zip(vi, ir[1:] + ir[:1], strict=True)
    ]
    assert min(agreed) > Bounds().agreement
    assert max(agreed) > 1.5 * max(mixed)
