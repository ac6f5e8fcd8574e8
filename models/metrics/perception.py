"""Metrics of perception in the frequency domain: Q_CB and Q_P, of DRFusion (spec 9).

Legend: B batch, H W pixels, O orientations. `f` fused, `a` infrared, `b` visible: B×H×W levels
0..255, float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.metrics.windows import filter_valid, gaussian, ratio

# Chen and Blum 2009: contrast sensitivity (their equation 6), contrast masking and its guard.
_F0, _F1, _ATTENUATION = 15.3870, 1.3456, 0.7622
_MASKING_GUARD = 0.0001
_RADIUS_PX = 15


def contrast_preservation(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Q_CB: local contrast kept after contrast-sensitivity filtering (Chen and Blum 2009)."""
    of_f, of_a, of_b = (_masked_contrast(x) for x in (f, a, b))
    share = ratio(of_a.square(), of_a.square() + of_b.square())
    quality = share * _smaller_over_larger(of_a, of_f)
    quality += (1 - share) * _smaller_over_larger(of_b, of_f)
    mean = quality.mean(dim=(1, 2))
    return {"Qcb": mean, "Q_CB": mean}


def _smaller_over_larger(x: Tensor, y: Tensor) -> Tensor:
    return ratio(torch.minimum(x, y), torch.maximum(x, y))


def _masked_contrast(x: Tensor) -> Tensor:
    """|Gaussian 2 px over Gaussian 4 px - 1|³ / (its square + guard), of the picture as seen."""
    low, high = x.amin(dim=(1, 2), keepdim=True), x.amax(dim=(1, 2), keepdim=True)
    stretched = (ratio(x - low, high - low) * 255 + 0.5).floor()
    seen = torch.fft.ifft2(torch.fft.fft2(stretched) * _sensitivity(x)).real
    padded = F.pad(seen, (_RADIUS_PX,) * 4)
    fine, coarse = (filter_valid(padded, _bell(sigma)) for sigma in (2.0, 4.0))
    contrast = (ratio(fine, coarse) - 1).abs()
    return contrast**3 / (contrast.square() + _MASKING_GUARD)


@functools.cache
def _bell(sigma_px: float) -> tuple[float, ...]:
    # The published evaluator leaves the window's sum below 1.
    scale = 1 / math.sqrt(2 * math.pi) / sigma_px
    span = range(-_RADIUS_PX, _RADIUS_PX + 1)
    return tuple(scale * math.exp(-(i**2) / (2 * sigma_px**2)) for i in span)


def _sensitivity(x: Tensor) -> Tensor:
    """Difference-of-Gaussians contrast sensitivity over H×W frequencies, zero frequency first."""
    height, width = x.shape[1:]
    rows, columns = (
        torch.fft.fftfreq(n, 1 / 2, dtype=x.dtype, device=x.device) * n / 30
        for n in (height, width)
    )
    radius = torch.hypot(rows[:, None], columns[None])
    return torch.exp(-((radius / _F0) ** 2)) - _ATTENUATION * torch.exp(-((radius / _F1) ** 2))


# Kovesi's phase congruency (1999, 2003) with the settings of Liu et al.'s evaluator (2012).
_NUM_SCALES, _NUM_ORIENTATIONS = 4, 6
_SHORTEST_PX, _SCALING, _BANDWIDTH, _ANGULAR = 3.0, 2.1, 0.55, 1.2
_NOISE_DEVIATIONS, _NOISE_RESCALING, _CUTOFF, _GAIN = 2.0, 1.7, 0.5, 10.0
_EPSILON = 1e-4
# Zhao et al. 2007: what counts as a feature, and the guard of its correlations.
_FEATURE, _GUARD = 0.1, 1e-4


class _Filters(NamedTuple):
    """Filters of one orientation over frequencies, scales×H×W, and the energy of their impulses."""

    angle: float
    scales: Tensor
    impulse_energy: Tensor


class _Features(NamedTuple):
    """Phase congruency and the largest and smallest moment of its covariance, B×H×W each."""

    congruency: Tensor
    largest: Tensor
    smallest: Tensor


def phase_congruency(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Q_P: product of the correlations of phase congruency and its moments (Zhao et al. 2007).

    A pair of sources without any feature gives 0.
    """
    filters = _filters(f)
    of_f, of_a, of_b = (_features(x, filters) for x in (f, a, b))
    from_a = of_a.congruency > of_b.congruency
    largest = _Features(*(torch.where(from_a, x, y) for x, y in zip(of_a, of_b, strict=True)))
    sources = (of_a, of_b, largest)
    masks = [source.congruency > _FEATURE for source in sources]
    area = masks[2].sum(dim=(1, 2))
    product = f.new_ones(len(f))
    for kind in range(len(_Features._fields)):
        maps = [
            _correlation_map(s[kind], of_f[kind], m) for s, m in zip(sources, masks, strict=True)
        ]
        best = torch.stack(maps).amax(dim=0)
        product = product * ratio(best.sum(dim=(1, 2)), area)
    return {"Q_P": product}


def _correlation_map(source: Tensor, fused: Tensor, mask: Tensor) -> Tensor:
    """Local correlation where the mask holds, else 0."""
    taps = gaussian(11, 1.5)
    x, y = (F.pad(z, (5,) * 4) for z in (source * mask, fused))
    mean_x, mean_y = filter_valid(x, taps), filter_valid(y, taps)
    var_x = filter_valid(x * x, taps) - mean_x.square()
    var_y = filter_valid(y * y, taps) - mean_y.square()
    cov = filter_valid(x * y, taps) - mean_x * mean_y
    return (cov + _GUARD) / ((var_x * var_y).abs().sqrt() + _GUARD) * mask


def _features(x: Tensor, filters: Sequence[_Filters]) -> _Features:
    spectrum = torch.fft.fft2(x)
    energy, amplitude = torch.zeros_like(x), torch.zeros_like(x)
    xx, yy, xy = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for one in filters:
        here, summed = _energy(spectrum, one)
        energy, amplitude = energy + here, amplitude + summed
        congruency = ratio(here, summed).square()
        xx += congruency * math.cos(one.angle) ** 2
        yy += congruency * math.sin(one.angle) ** 2
        xy += congruency * math.cos(one.angle) * math.sin(one.angle)
    half = _NUM_ORIENTATIONS / 2
    xx, yy, xy = xx / half, yy / half, xy / (2 * half)
    spread = torch.hypot(xy, xx - yy) + _EPSILON
    return _Features(
        energy / (amplitude + _EPSILON), (yy + xx + spread) / 2, (yy + xx - spread) / 2
    )


def _energy(spectrum: Tensor, filters: _Filters) -> tuple[Tensor, Tensor]:
    """Weighted, noise-compensated local energy of one orientation, and its summed amplitude."""
    # Real and imaginary parts apart: complex arithmetic takes three times as long.
    parts = [torch.fft.ifft2(_filtered(spectrum, one)) for one in filters.scales]
    responses = [(part.real.contiguous(), part.imag.contiguous()) for part in parts]  # B H W
    amplitudes = [_magnitude(*response) for response in responses]
    real, imaginary = (_total(part) for part in zip(*responses, strict=True))
    length = _magnitude(real, imaginary) + _EPSILON
    real, imaginary = real / length, imaginary / length
    energy = torch.zeros_like(real)
    for even, odd in responses:
        energy += even * real + odd * imaginary - (even * imaginary - odd * real).abs()
    summed, largest = _total(amplitudes), functools.reduce(torch.maximum, amplitudes)
    threshold = _noise_threshold(amplitudes[0], filters)
    width = summed / (largest + _EPSILON) / _NUM_SCALES
    weight = torch.sigmoid(_GAIN * (width - _CUTOFF))
    return weight * (energy - threshold[:, None, None]).clamp(min=0), summed


def _filtered(spectrum: Tensor, weights: Tensor) -> Tensor:
    return torch.view_as_complex(torch.view_as_real(spectrum) * weights[..., None])


def _magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    return (real * real).addcmul_(imaginary, imaginary).sqrt_()


def _total(pictures: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, pictures)


def _noise_threshold(finest: Tensor, filters: _Filters) -> Tensor:
    """What Gaussian noise of the finest scale's median energy would reach, B numbers."""
    power = _median_square(finest) / math.log(2) / filters.scales[0].square().sum()
    noise_energy = 2 * power * filters.impulse_energy
    rayleigh = (noise_energy / 2).sqrt()
    deviation = math.sqrt(2 - math.pi / 2)
    return rayleigh * (math.sqrt(math.pi / 2) + _NOISE_DEVIATIONS * deviation) / _NOISE_RESCALING


def _median_square(x: Tensor) -> Tensor:
    """Median of the squares of B×H×W magnitudes, B numbers."""
    flat = x.flatten(1)
    middle = flat.shape[1] // 2
    # MATLAB's median is the mean of the two middle values; torch's is the lower one.
    upper = flat.kthvalue(middle + 1, dim=1).values
    lower = flat.kthvalue(flat.shape[1] - middle, dim=1).values
    return (lower.square() + upper.square()) / 2


def _filters(x: Tensor) -> list[_Filters]:
    """The filters of every orientation, for pictures of the size of x."""
    size = x.shape[1] * x.shape[2]
    found = []
    for i, spread in enumerate(_angular_filters(x)):
        scales = _radial_filters(x) * spread
        impulses = torch.fft.ifft2(scales.sum(dim=0)).real * math.sqrt(size)
        # Σ(Σ h)² = Σ h_i² + 2 Σ h_i h_j: all that the noise estimate needs.
        found.append(_Filters(i * math.pi / _NUM_ORIENTATIONS, scales, impulses.square().sum()))
    return found


def _radial_filters(x: Tensor) -> Tensor:
    """Log-Gabor filters of four scales under a common low-pass, scales×H×W."""
    rows, columns = _frequencies(x)
    radius = torch.hypot(rows[:, None], columns[None])
    radius[0, 0] = 1.0
    low = [torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) for n in x.shape[1:]]
    low_pass = 1 / (1 + (torch.hypot(low[0][:, None], low[1][None]) / 0.45) ** 30)
    filters = []
    for scale in range(_NUM_SCALES):
        wavelength_px = _SHORTEST_PX * _SCALING**scale
        log_gabor = torch.exp(
            -((radius * wavelength_px).log() ** 2) / (2 * math.log(_BANDWIDTH) ** 2)
        )
        log_gabor[0, 0] = 0.0
        filters.append(log_gabor * low_pass)
    return torch.stack(filters)


def _angular_filters(x: Tensor) -> list[Tensor]:
    rows, columns = _frequencies(x)
    theta = torch.atan2(-rows[:, None], columns[None].expand(len(rows), -1))
    sigma = math.pi / _NUM_ORIENTATIONS / _ANGULAR
    spreads = []
    for i in range(_NUM_ORIENTATIONS):
        turned = theta - i * math.pi / _NUM_ORIENTATIONS
        distance = torch.atan2(turned.sin(), turned.cos())
        spreads.append(torch.exp(-distance.square() / (2 * sigma**2)))
    return spreads


def _frequencies(x: Tensor) -> list[Tensor]:
    """Rows' and columns' frequencies, zero first; Kovesi spreads an odd number to ±1/2."""
    return [
        torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) * (n / (n - n % 2))
        for n in x.shape[1:]
    ]
