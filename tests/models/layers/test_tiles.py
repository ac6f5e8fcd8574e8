from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from models.dspfusion.config import DSPFusionConfig, tiny
from models.dspfusion.fuser import DSPFusionFuser
from models.layers.pixel_sums import PixelSums
from models.layers.tiles import Tiling, even_slices, fade, fuse_tiles, tile_slices


@pytest.mark.parametrize(("length", "tile"), [(10, 16), (16, 16), (17, 16), (100, 16), (64, 24)])
def test_tiles_cover_and_overlap(length: int, tile: int) -> None:
    pieces = tile_slices(length, tile, 4)
    assert pieces[0].start == 0
    assert pieces[-1].stop == length
    for before, after in pairwise(pieces):
        assert before.stop - after.start >= 4
        assert after.stop - after.start == tile


@pytest.mark.parametrize(("length", "tile"), [(16, 16), (24, 16), (104, 48), (800, 512), (8, 64)])
def test_even_tiles_cover_without_overlap(length: int, tile: int) -> None:
    pieces = even_slices(length, tile, 8)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == length
    sizes = [piece.stop - piece.start for piece in pieces]
    assert all(size % 8 == 0 and 0 < size <= tile for size in sizes)
    assert max(sizes) - min(sizes) <= 8


def test_fade_leaves_the_images_ends_alone() -> None:
    like = torch.zeros(1)
    assert fade(slice(0, 8), 8, 3, like=like).tolist() == [1.0] * 8
    assert fade(slice(4, 12), 12, 3, like=like).tolist() == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert fade(slice(0, 6), 12, 2, like=like)[-2:].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_blending_a_local_function_is_exact() -> None:
    vi, ir = torch.rand(2, 3, 40, 33), torch.rand(2, 3, 40, 33)
    blended = tiled(vi, ir, lambda a, b: a * b, nn.Identity())
    torch.testing.assert_close(blended, vi * ir)


class MinusMean(nn.Module):
    """A layer that reads a mean over all pixels: what tiles get wrong by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = PixelSums()

    def forward(self, vi: Tensor, ir: Tensor) -> Tensor:
        mean = self.sums.mean(vi.mean(dim=(2, 3)), vi.shape[2] * vi.shape[3])
        return vi * ir - mean[..., None, None]


def test_a_second_pass_knows_the_means_of_the_picture() -> None:
    vi, ir = torch.rand(2, 3, 40, 33), torch.rand(2, 3, 40, 33)
    vi[..., 20:] += 1  # no tile has the picture's mean
    layer = MinusMean()
    whole = layer(vi, ir)
    torch.testing.assert_close(tiled(vi, ir, layer, layer), whole)
    assert (tiled(vi, ir, layer, layer, num_passes=1) - whole).abs().max() > 0.3


def test_layers_are_as_before_after_the_tiles_even_if_these_fail() -> None:
    vi, ir = torch.rand(1, 3, 40, 33), torch.rand(1, 3, 40, 33)
    layer = MinusMean()
    whole = layer(vi, ir)
    tiled(vi, ir, layer, layer)
    assert torch.equal(layer(vi, ir), whole)

    def fail(vi: Tensor, ir: Tensor) -> Tensor:
        layer(vi, ir)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        tiled(vi, ir, fail, layer)
    assert torch.equal(layer(vi, ir), whole)


def tiled(
    vi: Tensor,
    ir: Tensor,
    fuse: Callable[[Tensor, Tensor], Tensor],
    network: nn.Module,
    *,
    num_passes: int = 2,
    overlap_px: int = 5,
) -> Tensor:
    tiling = Tiling(16, overlap_px)
    return fuse_tiles(vi, ir, fuse, tiling, network=network, num_passes=num_passes)


def test_overlap_has_bounds() -> None:
    vi, ir = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="overlap_px is 9"):
        tiled(vi, ir, MinusMean(), nn.Identity(), overlap_px=9)
    with pytest.raises(ValueError, match="num_passes is 0"):
        tiled(vi, ir, MinusMean(), nn.Identity(), num_passes=0)


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
    assert torch.equal(fuser().fuse_tiled(vi, ir, tile_px=64).fused, fuser()(vi, ir).fused)


@torch.inference_mode()
def test_tiled_is_nearly_whole() -> None:
    """The stated error: 0.002 on average and 0.03 at most; the priors are the whole pair's."""
    vi, ir = pair(150, 205)
    difference = (fuser().fuse_tiled(vi, ir, tile_px=64).fused - fuser()(vi, ir).fused).abs()
    assert difference.mean() < 0.002
    assert difference.max() < 0.03


@pytest.mark.parametrize("tile_px", [60, 56, 0])
def test_tile_size_is_checked(tile_px: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8 and at least 64"):
        fuser().fuse_tiled(*pair(70, 70), tile_px=tile_px)
