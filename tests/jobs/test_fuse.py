"""Files of any depth, colour and size go in; PNG of the inputs' depth comes out."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.fuse import fuse_files, fuse_paths
from tests.conftest import tiny_fuser


def write_noise(path: Path, shape: tuple[int, ...], dtype: type) -> Path:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    assert cv2.imwrite(str(path), levels)
    return path


@pytest.mark.parametrize(
    ("vi", "ir", "depth"),
    [
        (("vi.png", (16, 16, 3), np.uint8), ("ir.png", (16, 16), np.uint8), np.uint8),
        (("vi.tiff", (17, 23, 3), np.uint16), ("ir.png", (17, 23), np.uint16), np.uint16),
        (("vi.jpg", (19, 16), np.uint8), ("ir.tiff", (19, 16), np.uint16), np.uint16),
    ],
)
def test_depths_greys_and_sizes(tmp_path: Path, vi: tuple, ir: tuple, depth: type) -> None:
    paths = [write_noise(tmp_path / name, shape, dtype) for name, shape, dtype in (vi, ir)]
    fuse_files(tiny_fuser(), *paths, tmp_path / "out.png")
    fused = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert fused.dtype == depth
    assert fused.shape == (*vi[1][:2], 3)
    assert fused.max() > 255 or depth == np.uint8


def test_depths_agree(tmp_path: Path) -> None:
    """The same levels at 8 and at 16 bits (times 257) make the same picture."""
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    fused = []
    for name, image in (("8", levels), ("16", levels.astype(np.uint16) * 257)):
        vi, ir, out = (tmp_path / f"{part}{name}.png" for part in ("vi", "ir", "out"))
        assert cv2.imwrite(str(vi), image)
        assert cv2.imwrite(str(ir), image[:, :, 0])
        fuse_paths(tiny_fuser(), vi, ir, out)
        fused.append(cv2.imread(str(out), cv2.IMREAD_UNCHANGED))
    assert np.array_equal((fused[1] / 257).round().astype(np.uint8), fused[0])


def test_too_small_is_named(tmp_path: Path) -> None:
    vi = write_noise(tmp_path / "vi.png", (15, 20, 3), np.uint8)
    ir = write_noise(tmp_path / "ir.png", (15, 20), np.uint8)
    with pytest.raises(ValueError, match=r"vi\.png: images must be at least 16"):
        fuse_files(tiny_fuser(), vi, ir, tmp_path / "out.png")
