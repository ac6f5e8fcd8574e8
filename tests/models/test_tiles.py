from itertools import pairwise

import pytest
import torch

from models.dspfusion.config import DSPFusionConfig, tiny
from models.dspfusion.fuser import DSPFusionFuser
from models.tiles import fade, fuse_tiles, tile_slices


@pytest.mark.parametrize(("length", "tile"), [(10, 16), (16, 16), (17, 16), (100, 16), (64, 24)])
def test_tiles_cover_and_overlap(length: int, tile: int) -> None:
    pieces = tile_slices(length, tile, 4)
    assert pieces[0].start == 0
    assert pieces[-1].stop == length
    for before, after in pairwise(pieces):
        assert before.stop - after.start >= 4
        assert after.stop - after.start == tile


def test_fade_leaves_the_images_ends_alone() -> None:
    like = torch.zeros(1)
    assert fade(slice(0, 8), 8, 3, like=like).tolist() == [1.0] * 8
    assert fade(slice(4, 12), 12, 3, like=like).tolist() == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert fade(slice(0, 6), 12, 2, like=like)[-2:].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_blending_a_local_function_is_exact() -> None:
    vi, ir = torch.rand(2, 3, 40, 33), torch.rand(2, 3, 40, 33)
    blended = fuse_tiles(vi, ir, lambda a, b: a * b, tile_px=16, overlap_px=5)
    torch.testing.assert_close(blended, vi * ir)


def test_overlap_has_bounds() -> None:
    with pytest.raises(ValueError, match="overlap_px is 9"):
        fuse_tiles(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), max, tile_px=16, overlap_px=9)


def fuser() -> DSPFusionFuser:
    torch.manual_seed(0)
    return DSPFusionFuser(DSPFusionConfig(**tiny().model_dump())).eval()


def pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 12, width), indexing="ij")
    vi = torch.stack([0.5 + 0.4 * torch.sin(x + k * y) for k in range(3)]).unsqueeze(0)
    return vi, (0.5 + 0.4 * torch.cos(x * 0.7 + y)).view(1, 1, height, width)


@torch.inference_mode()
def test_one_tile_is_the_whole() -> None:
    vi, ir = pair(50, 61)
    assert torch.equal(fuser().fuse_tiled(vi, ir, tile_px=64), fuser()(vi, ir))


@torch.inference_mode()
def test_tiled_is_nearly_whole() -> None:
    """The stated error: 0.002 on average and 0.03 at most; the priors are the whole pair's."""
    vi, ir = pair(150, 205)
    difference = (fuser().fuse_tiled(vi, ir, tile_px=64) - fuser()(vi, ir)).abs()
    assert difference.mean() < 0.002
    assert difference.max() < 0.03


@pytest.mark.parametrize("tile_px", [60, 56, 0])
def test_tile_size_is_checked(tile_px: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8 and at least 64"):
        fuser().fuse_tiled(*pair(70, 70), tile_px=tile_px)
