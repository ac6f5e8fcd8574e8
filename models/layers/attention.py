"""Attention between channels instead of pixels (Restormer, Eq. 1; spec 1.3, MDTA).

Shapes: B batch, C channels, H W pixels, n pixels of a strip, h heads, c = C / h.
"""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from models.layers.cpu_strips.rows import pixels_first, row_strips
from models.layers.pixel_sums import PixelSums

# Below this length a query or key counts as zero (the guard of F.normalize).
_MIN_NORM = 1e-12


@dataclass
class ChannelGram:
    """q kᵀ of each head (h×c×c) and the squared lengths of q's and k's rows (2×C) of one image.

    Attention between channels needs q and k in no other form, so their maps need not be whole.
    """

    gram: Tensor
    squares: Tensor

    @classmethod
    def zeros(cls, channels: int, num_heads: int, *, like: Tensor) -> Self:
        """Return the sums over no pixels."""
        width = channels // num_heads
        return cls(like.new_zeros(num_heads, width, width), like.new_zeros(2, channels))

    def add(self, q: Tensor, k: Tensor) -> None:
        """Add the pixels q and k, n×C each, in the sums' own precision."""
        num_heads = len(self.gram)
        q, k = q.to(self.gram.dtype), k.to(self.gram.dtype)
        for gram, q_head, k_head in zip(
            self.gram, q.chunk(num_heads, 1), k.chunk(num_heads, 1), strict=True
        ):
            gram.addmm_(q_head.t(), k_head)  # c c
        self.squares[0] += q.square().sum(0)
        self.squares[1] += k.square().sum(0)

    def over_picture(self, sums: PixelSums) -> Self:
        """Return these sums, or the whole picture's where this is a tile of it."""
        return type(self)(*sums.add(self.gram, self.squares))

    def weights(self, temperature: Tensor) -> Tensor:
        """Return the attention matrices h×c×c."""
        q, k = _lengths(self.squares).unflatten(1, self.gram.shape[:2])
        lengths = q.unsqueeze(2) * k.unsqueeze(1)  # h c c
        return (temperature * (self.gram / lengths)).softmax(dim=-1)


def channel_weights(q: Tensor, k: Tensor, temperature: Tensor, sums: PixelSums) -> Tensor:
    """Attention between channels instead of pixels (spec 1.3, MDTA; Restormer, Eq. 1).

    q and k are B×C×H×W, `temperature` is h×1×1, the result is B×h×c×c. q and k have unit length
    over the pixels, the whole picture's where `sums` says so; we divide the small Gram matrix by the
    lengths instead of the long rows.
    """
    num_heads = temperature.shape[0]
    q, k = (x.flatten(2).unflatten(1, (num_heads, -1)) for x in (q, k))  # B h c HW
    own = (q @ k.transpose(-2, -1), _row_squares(q), _row_squares(k))  # B h c c, B h c 1 twice
    gram, q_squares, k_squares = sums.add(*own)
    lengths = _lengths(q_squares) * _lengths(k_squares).transpose(-2, -1)  # B h c c
    return (temperature * (gram / lengths)).softmax(dim=-1)


def _row_squares(x: Tensor) -> Tensor:
    return x.square().sum(dim=-1, keepdim=True)  # B h c 1


def _lengths(squares: Tensor) -> Tensor:
    # The guard stands below the root: a row of zeros has no gradient above it.
    return squares.clamp_min(_MIN_NORM**2).sqrt()


def fold_projection(project: Tensor, weights: Tensor) -> Tensor:
    """Join the output projection C×C×1×1 with attention matrices …×h×c×c to …×C×C.

    project · (A v) = (project · A) v: one product with C×C per pixel instead of two.
    """
    heads = project.flatten(1).unflatten(1, (weights.shape[-3], -1)).transpose(0, 1)  # h C c
    return (heads @ weights).transpose(-3, -2).flatten(-2)  # … C C


def attend(v: Tensor, weights: Tensor, project: Tensor) -> Tensor:
    """Apply attention B×h×c×c and the output projection to v B×C×H×W."""
    folded = fold_projection(project, weights)  # B C C
    pixels = v.permute(0, 2, 3, 1).flatten(1, 2) @ folded.transpose(1, 2)  # B HW C
    return pixels_first(pixels.unflatten(1, v.shape[-2:]))  # B C H W


def project_values(values: Tensor, weights: Tensor, project: Tensor) -> Tensor:
    """Apply attention h×c×c and the output projection to an image's v H×W×C, in place."""
    folded = fold_projection(project, weights).t()  # C C
    for rows in row_strips(values, values.shape[-1]):
        values[rows] = values[rows] @ folded
    return values
