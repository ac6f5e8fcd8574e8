"""Overlapping tiles of large images, and how their results are blended.

Shapes: B batch, C channels, H W pixels of the image, h w pixels of a tile.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers.pixel_sums import sums_of


class Tiling(NamedTuple):
    """Tiles of at most `side_px`, their sizes multiples of `multiple_px` if the image's are."""

    side_px: int
    overlap_px: int
    multiple_px: int = 1


def fuse_tiles(
    vi: Tensor,
    ir: Tensor,
    fuse: Callable[[Tensor, Tensor], Tensor],
    tiling: Tiling,
    *,
    network: nn.Module,
    num_passes: int,
) -> Tensor:
    """Fuse tiles with `fuse(vi, ir)`, blend them where they overlap.

    Before the last of `num_passes`, tiles that do not overlap are run only so that `network`'s layers
    sum up over the picture. An image that is no larger than a tile is fused whole.
    """
    tile_px, overlap_px, multiple_px = tiling
    if not 0 < overlap_px <= tile_px // 2:
        raise ValueError(f"overlap_px is {overlap_px}; it must be 1 to half of tile_px {tile_px}")
    if num_passes < 1:
        raise ValueError(f"num_passes is {num_passes}; it must be at least 1")
    height, width = vi.shape[-2:]
    if max(height, width) <= tile_px:
        return fuse(vi, ir)
    apart = [even_slices(length, tile_px, multiple_px) for length in (height, width)]
    with sums_of(network) as layers:
        for _ in range(num_passes - 1):
            for layer in layers:
                layer.begin_pass(last=False)
            for rows, columns in product(*apart):
                fuse(vi[..., rows, columns], ir[..., rows, columns])
        for layer in layers if num_passes > 1 else ():
            layer.begin_pass(last=True)
        return _blend_tiles(vi, ir, fuse, tiling)


def _blend_tiles(
    vi: Tensor, ir: Tensor, fuse: Callable[[Tensor, Tensor], Tensor], tiling: Tiling
) -> Tensor:
    """Fuse overlapping tiles; each fades in and out linearly over the overlap: no seam shows."""
    tile_px, overlap_px, _ = tiling
    height, width = vi.shape[-2:]
    total, weight = vi.new_zeros(vi.shape), vi.new_zeros(height, width)
    slices = [tile_slices(length, tile_px, overlap_px) for length in (height, width)]
    for rows, columns in product(*slices):
        window = torch.outer(
            fade(rows, height, overlap_px, like=vi), fade(columns, width, overlap_px, like=vi)
        )  # h w
        total[..., rows, columns] += window * fuse(vi[..., rows, columns], ir[..., rows, columns])
        weight[rows, columns] += window
    return total / weight


def even_slices(length: int, tile: int, multiple: int) -> list[slice]:
    """Cut 0..length into the fewest pieces of at most `tile`, as even as multiples of `multiple` are."""
    units, num_pieces = length // multiple, -(-length // tile)
    edges = [multiple * (units * i // num_pieces) for i in range(num_pieces)] + [length]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def tile_slices(length: int, tile: int, overlap: int) -> list[slice]:
    """Cut 0..length into pieces of `tile` that overlap by at least `overlap`; the last ends at length."""
    if length <= tile:
        return [slice(0, length)]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    return [slice(start, start + tile) for start in starts]


def fade(piece: slice, length: int, overlap: int, *, like: Tensor) -> Tensor:
    """Weights of a piece along one axis: rising from its start, falling to its end, 1 between.

    The image's own ends do not fade: nothing else covers them.
    """
    size = piece.stop - piece.start
    ramp = torch.arange(1, size + 1, dtype=like.dtype, device=like.device) / (overlap + 1)
    rising = ramp.clamp(max=1) if piece.start > 0 else torch.ones_like(ramp)
    falling = ramp.flip(0).clamp(max=1) if piece.stop < length else torch.ones_like(ramp)
    return rising * falling
