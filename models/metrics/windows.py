"""Sliding windows over levels: Gaussian taps, filtering where the window fits, local moments.

Legend: B batch, H W pixels, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows filtered at once: a strip of a 1280-pixel wide picture then stays in a core's cache.
_STRIP_PX = 48


@cache
def gaussian(num_taps: int, sigma_px: float) -> tuple[float, ...]:
    """Weights of a Gaussian window, which sum to 1 (MATLAB's `fspecial` is their outer product)."""
    centre = (num_taps - 1) / 2
    weights = [math.exp(-((i - centre) ** 2) / (2 * sigma_px**2)) for i in range(num_taps)]
    return tuple(weight / sum(weights) for weight in weights)


def filter_valid(x: Tensor, taps: Sequence[float], *, step: int = 1) -> Tensor:
    """Correlate B×H×W with the window taps ⊗ taps, only where it fits: B×(H-K+1)×(W-K+1).

    With a step, only every so manieth row and column of that. By shifted sums, strip by strip:
    several times faster than float64 `conv2d` on a CPU.
    """

    def apply(rows: Tensor) -> Tensor:
        return _shift_sum(_shift_sum(rows, taps, 0, step).T, taps, 1, step)

    return _by_strips(x, len(taps), apply, step)


def correlate_valid(x: Tensor, window: Sequence[Sequence[float]]) -> Tensor:
    """Correlate B×H×W with any K×K window, only where it fits: B×(H-K+1)×(W-K+1)."""
    size = len(window)

    def apply(rows: Tensor) -> Tensor:
        height, width = rows.shape[0] - size + 1, rows.shape[1] - size + 1
        total = rows.new_zeros(height, width)
        for (i, j), tap in _each(window):
            total.add_(rows[i : i + height, j : j + width], alpha=tap)
        return total

    return _by_strips(x, size, apply)


def _each(window: Sequence[Sequence[float]]) -> list[tuple[tuple[int, int], float]]:
    """Places and weights of a window, without those that weigh nothing."""
    cells = ((i, j, tap) for i, line in enumerate(window) for j, tap in enumerate(line))
    return [((i, j), tap) for i, j, tap in cells if tap]


def _by_strips(x: Tensor, size: int, apply: Callable[[Tensor], Tensor], step: int = 1) -> Tensor:
    """Apply a filter with windows of `size` a side to strips of rows; x is B×H×W."""
    height, width = (-(-(side - size + 1) // step) for side in x.shape[1:])
    filtered = x.new_empty(x.shape[0], height, width)
    strip = height if x.is_cuda else _STRIP_PX
    for picture, target in zip(x, filtered, strict=True):
        for top in range(0, height, strip):
            rows = picture[top * step : (top + strip - 1) * step + size]
            target[top : top + strip] = apply(rows)
    return filtered


def _shift_sum(x: Tensor, taps: Sequence[float], dim: int, step: int) -> Tensor:
    """Correlate one dimension of H×W; the other one comes first in what is returned."""
    length = x.shape[dim] - len(taps) + 1
    # All shifted views in one call: a `narrow` each takes a third of the time of the sums.
    first, *others = x.unfold(dim, length, 1)[..., ::step].unbind(dim)
    total = first * taps[0]
    for shifted, tap in zip(others, taps[1:], strict=True):
        total.add_(shifted, alpha=tap)
    return total


def replicate_pad(x: Tensor, border_px: int) -> Tensor:
    """Repeat the edge pixels of B×H×W."""
    return F.pad(x[:, None], (border_px,) * 4, mode="replicate")[:, 0]


def halve_by_mean(x: Tensor) -> Tensor:
    """Mean of 2×2 from every second pixel on, as MATLAB's symmetric `imfilter` aligns it."""
    padded = F.pad(x[:, None], (0, 1, 0, 1), mode="replicate")[:, 0]
    pairs = padded[:, :-1] + padded[:, 1:]
    return ((pairs[:, :, :-1] + pairs[:, :, 1:]) / 4)[:, ::2, ::2]


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0/0 as 0: a flat picture holds nothing to preserve."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)
