"""Attention between channels instead of pixels (Restormer, Eq. 1; spec 1.3, MDTA).

Shapes: B batch, C channels, H W pixels, h heads, c = C / h.
"""

from collections.abc import Sequence

from torch import Tensor

from models.devices import at_least_float32, unrounded
from models.layers.pixel_sums import PixelSums

# Below this length a query or key counts as zero (the guard of F.normalize).
_MIN_NORM = 1e-12


def channel_weights(q: Tensor, k: Tensor, temperature: Tensor, sums: PixelSums) -> Tensor:
    """Return the attention matrices B×h×c×c of q and k B×C×H×W; `temperature` is h×1×1.

    Queries and keys have unit length over the pixels, the whole picture's where `sums` says so. They may
    be bfloat16; sums over pixels are float32 (README of dspfusion, Precision).
    """
    heads = temperature.shape[0], -1
    with unrounded(q):
        q, k = (at_least_float32(x).flatten(2).unflatten(1, heads) for x in (q, k))  # B h c HW
        # B h c c, B h c twice
        own = (q @ k.transpose(-2, -1), q.square().sum(-1), k.square().sum(-1))
        return gram_weights(sums.add(*own), temperature)


def gram_weights(sums: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """Return the attention matrices …×h×c×c, given sums over pixels: q kᵀ …×h×c×c, q² and k² …×h×c.

    We divide the small matrix by the lengths instead of the long queries and keys.
    """
    gram, *squares = sums
    # The guard stands below the root: a row of zeros has no gradient above it.
    q, k = (x.clamp_min(_MIN_NORM**2).sqrt() for x in squares)
    lengths = q.unsqueeze(-1) * k.unsqueeze(-2)  # … h c c
    return (temperature * (gram / lengths)).softmax(dim=-1)


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
    return pixels.unflatten(1, v.shape[-2:]).permute(0, 3, 1, 2)  # B C H W


def softmax_by_head(scores: Tensor, num_heads: int) -> Tensor:
    """Softmax of …×hN×n over the N tokens of each head."""
    return scores.unflatten(-2, (num_heads, -1)).softmax(dim=-2).flatten(-3, -2)
