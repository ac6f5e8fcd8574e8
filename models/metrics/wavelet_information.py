"""Visual information fidelity in the wavelet domain, as Sheikh and Bovik published it (vifvec).

Legend: B batch, H W pixels, N blocks, M block side. Sources and fused are B×H×W levels 0..255.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from models.metrics.windows import correlate_valid, filter_valid, ratio

_NUM_SCALES, _BLOCK = 4, 3
_NOISE_VARIANCE, _TOLERANCE = 0.4, 1e-15
# The coarsest band (an eighth of the side) still holds a block away from its border.
MIN_SIDE_PX = 80

# Upper left quarters of the steerable pyramid's filters sp5 (Simoncelli's matlabPyrTools; MIT).
# fmt: off
_LOW_0 = ((0.00341614, -0.01551246, -0.03848215),
          (-0.01551246, 0.05586982, 0.15925570),
          (-0.03848215, 0.15925570, 0.40304148))
_LOW = ((0.00170808, -0.00489834, -0.00775624, -0.01888864, -0.01924108),
        (-0.00489834, -0.01046562, -0.01322234, 0.00821200, 0.02005976),
        (-0.00775624, -0.01322234, 0.02793492, 0.06554076, 0.07962786),
        (-0.01888864, 0.00821200, 0.06554076, 0.12852666, 0.16339236),
        (-0.01924108, 0.02005976, 0.07962786, 0.16339236, 0.20193080))
# The band of vertical edges, odd from left to right; that of horizontal ones is its transpose.
_BAND = ((0.00277643, -0.00986904, -0.01021852, 0.0),
         (0.00496194, -0.00893064, -0.03075356, 0.0),
         (0.01026699, 0.01189859, -0.08226445, 0.0),
         (0.01455399, 0.02755155, -0.11732297, 0.0))
# fmt: on


def wavelet_information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """VIF of Sheikh and Bovik 2006 in two orientations of four scales, summed over the sources."""
    kept, whole = f.new_zeros(2, len(f)), f.new_zeros(2, len(f))
    for index, bands in enumerate(zip(*(_bands(x) for x in (f, a, b)), strict=True)):
        # Two bands a scale; the windows of the finest are the widest.
        window = 2 ** (_NUM_SCALES - index // 2) + 1
        distorted, *references = (_to_blocks(band) for band in bands)
        for i, reference in enumerate(references):
            kept_here, whole_here = _information(reference, distorted, window)
            kept[i] += kept_here
            whole[i] += whole_here
    return {"vifvec_sum": ratio(kept, whole).sum(dim=0)}


def _bands(x: Tensor) -> Iterator[Tensor]:
    """Bands of vertical and of horizontal edges, from fine to coarse."""
    band = _whole(x, _BAND, odd=True)
    low = _correlate(x, _whole(x, _LOW_0))
    for _ in range(_NUM_SCALES):
        yield _correlate(low, band)
        yield _correlate(low, band.T)
        low = _correlate(low, _whole(x, _LOW))[:, ::2, ::2]


def _whole(x: Tensor, quarter: tuple[tuple[float, ...], ...], *, odd: bool = False) -> Tensor:
    """Mirror a filter's upper left quarter."""
    upper_left = x.new_tensor(quarter)
    right = upper_left[:, :-1].flip(1)
    upper = torch.cat([upper_left, -right if odd else right], dim=1)
    return torch.cat([upper, upper[:-1].flip(0)])


def _correlate(x: Tensor, window: Tensor) -> Tensor:
    """Correlate B×H×W with mirrored borders: B×H×W."""
    return correlate_valid(_mirrored(x, len(window) // 2), window.tolist())


def _mirrored(x: Tensor, border_px: int) -> Tensor:
    return F.pad(x[:, None], (border_px,) * 4, mode="reflect")[:, 0]


def _to_blocks(x: Tensor) -> Tensor:
    height, width = (size // _BLOCK * _BLOCK for size in x.shape[1:])
    return x[:, :height, :width]


def _information(reference: Tensor, distorted: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Information of one band: what the distorted picture keeps, what the reference holds."""
    gain, residual = _distortion(reference, distorted, window)
    scatter, eigenvalues = _mixture(reference)
    border = -(-(window // 2) // _BLOCK)
    inner = slice(border, -border)
    gain, residual, scatter = (x[:, None, inner, inner] for x in (gain, residual, scatter))
    signal = scatter * eigenvalues[:, :, None, None]  # B M² rows columns
    kept = torch.log2(1 + gain.square() * signal / (residual + _NOISE_VARIANCE))
    whole = torch.log2(1 + signal / _NOISE_VARIANCE)
    return kept.sum(dim=(1, 2, 3)), whole.sum(dim=(1, 2, 3))


def _distortion(reference: Tensor, distorted: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Gain and residual variance of "distorted = gain · reference + residual", a block each."""
    count = window * window

    def total(x: Tensor) -> Tensor:
        """Sum over the window around the middle of every block."""
        offset = _BLOCK // 2
        padded = _mirrored(x, window // 2)[:, offset:, offset:]
        return filter_valid(padded, (1.0,) * window, step=_BLOCK)

    sum_r, sum_d = total(reference), total(distorted)
    cov = total(reference * distorted) - sum_r * sum_d / count
    var_r = (total(reference.square()) - sum_r.square() / count).clamp(min=0)
    var_d = (total(distorted.square()) - sum_d.square() / count).clamp(min=0)
    gain = cov / (var_r + _TOLERANCE)
    residual = (var_d - gain * cov) / count
    flat_r, flat_d = var_r < _TOLERANCE, var_d < _TOLERANCE
    gain = gain.masked_fill(flat_r | flat_d, 0.0)
    residual = torch.where(flat_r, var_d, residual).masked_fill(flat_d, 0.0)
    residual = torch.where(gain < 0, var_d, residual).clamp(min=_TOLERANCE)
    return gain.clamp(min=0), residual


def _mixture(reference: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian scale mixture of 3×3 blocks: scale of every block, eigenvalues of the covariance."""
    windows = reference.unfold(1, _BLOCK, 1).unfold(2, _BLOCK, 1).flatten(3).flatten(1, 2)
    centred = windows - windows.mean(dim=1, keepdim=True)  # B N M²
    covariance = centred.mT @ centred / centred.shape[1]
    blocks = reference.unfold(1, _BLOCK, _BLOCK).unfold(2, _BLOCK, _BLOCK).flatten(3)
    # Pseudo-inverse: the blocks of a flat picture have no covariance to invert.
    inverse = torch.linalg.pinv(covariance, hermitian=True)[:, None]
    scatter = ((blocks @ inverse) * blocks).sum(dim=3) / _BLOCK**2
    return scatter, torch.linalg.eigvalsh(covariance).clamp(min=0)
