"""Overlapping tiles of large images, and how their results are blended.

Shapes: B batch, C channels, H W pixels of the image, h w pixels of a tile.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def fuse_tiles(
    vi: Tensor,
    ir: Tensor,
    fuse: Callable[[Tensor, Tensor], Tensor],
    *,
    tile_px: int,
    overlap_px: int,
) -> Tensor:
    """Fuse tiles of at most `tile_px` a side with `fuse(vi, ir)`, blend them where they overlap.

    Each tile fades in and out linearly over the overlap, so that no seam shows. An image that is
    no larger than a tile is fused whole.
    """
    if not 0 < overlap_px <= tile_px // 2:
        raise ValueError(f"overlap_px is {overlap_px}; it must be 1 to half of tile_px {tile_px}")
    height, width = vi.shape[-2:]
    total = vi.new_zeros(vi.shape)
    weight = vi.new_zeros(height, width)
    for rows, columns in product(
        tile_slices(height, tile_px, overlap_px), tile_slices(width, tile_px, overlap_px)
    ):
        window = torch.outer(
            fade(rows, height, overlap_px, like=vi), fade(columns, width, overlap_px, like=vi)
        )  # h w
        total[..., rows, columns] += window * fuse(vi[..., rows, columns], ir[..., rows, columns])
        weight[rows, columns] += window
    return total / weight


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
