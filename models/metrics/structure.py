"""Metrics of local structure: SSIM, MS-SSIM, MEF-SSIM and the weighted index Q_W.

Legend: B batch, H W pixels. `f` fused, `a` infrared, `b` visible: B×H×W levels 0..255, float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.metrics.windows import filter_valid, gaussian, halve_by_mean, ratio, replicate_pad

_TAPS = gaussian(11, 1.5)
_BORDER_PX = len(_TAPS) // 2
_PEAK = 255.0
# Wang, Simoncelli and Bovik 2003, section 3.2.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The window still has to fit after four halvings.
MS_SSIM_MIN_SIDE_PX = len(_TAPS) * 2 ** (len(_SCALE_WEIGHTS) - 1)


class _Moments(NamedTuple):
    mean: Tensor
    variance: Tensor


def structural_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SSIM and, of pictures that are large enough for it, MS_SSIM, each the mean over both sources.

    SSIM: Wang et al. 2004, L = 255, replicate padding. MS_SSIM: Wang et al. 2003, five scales,
    without padding; its finest scale is what SSIM's maps hold away from the border.
    """
    finest = _maps(*(replicate_pad(x, _BORDER_PX) for x in (f, a, b)), peak=_PEAK)
    values = {"SSIM": _mean_over_sources(luminance * structure for luminance, structure in finest)}
    if min(f.shape[1:]) < MS_SSIM_MIN_SIDE_PX:
        return values
    inner = slice(_BORDER_PX, -_BORDER_PX)
    scales = [[structure[:, inner, inner] for _, structure in finest]]
    for _ in _SCALE_WEIGHTS[1:]:
        f, a, b = (halve_by_mean(x) for x in (f, a, b))
        coarsest = _maps(f, a, b, peak=_PEAK)
        scales.append([structure for _, structure in coarsest])
    # Contrast and structure of the finer scales, all of SSIM at the coarsest.
    scales[-1] = [luminance * structure for luminance, structure in coarsest]
    return values | {"MS_SSIM": _weighted_product(scales)}


def target_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """PSNR in dB and SSIM against the brighter source in each pixel, which fusion nets are trained for.

    DSPFusion's content target (spec of DSPFusion, 2.1) in grey; peak 255, borders as SSIM's.
    """
    target = torch.maximum(a, b)
    mse = (f - target).square().mean(dim=(1, 2))
    maps = _maps(*(replicate_pad(x, _BORDER_PX) for x in (f, target)), peak=_PEAK)
    return {
        "PSNR_target": 10 * torch.log10(_PEAK**2 / mse),
        "SSIM_target": _mean_over_sources(luminance * structure for luminance, structure in maps),
    }


def exposed_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """PSNR in dB against the target of `target_similarity`, at the exposure that suits it best.

    The fused levels get the gain (not below 0) and offset of least squares, as Weigert et al. 2018 (CARE,
    supplement) compare restorations: a picture that is right but for its exposure is not off by its mean.
    """
    target = torch.maximum(a, b)
    fused, wanted = (x - x.mean(dim=(1, 2), keepdim=True) for x in (f, target))
    covariance = (fused * wanted).mean(dim=(1, 2), keepdim=True)
    gain = ratio(covariance, fused.square().mean(dim=(1, 2), keepdim=True)).clamp(min=0)
    # With a gain of 0 everything would equal a flat target.
    gain = torch.where(wanted.abs().amax(dim=(1, 2), keepdim=True) > 0, gain, 1.0)
    mse = (gain * fused - wanted).square().mean(dim=(1, 2))
    return {"PSNR_target_affine": 10 * torch.log10(_PEAK**2 / mse)}


def unit_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SSIM of levels with L = 1, as MATLAB takes pictures of doubles."""
    maps = _maps(*(replicate_pad(x, _BORDER_PX) for x in (f, a, b)), peak=1.0)
    return {
        "SSIM_ml_mean_L1": _mean_over_sources(
            luminance * structure for luminance, structure in maps
        )
    }


def _maps(f: Tensor, *sources: Tensor, peak: float) -> list[tuple[Tensor, Tensor]]:
    """Luminance and contrast-structure maps of the fused picture with each source."""
    of_f = _moments(f, _TAPS)
    maps = []
    for source in sources:
        of_source = _moments(source, _TAPS)
        cov = _covariance(f, source, of_f, of_source, _TAPS)
        maps.append(_similarity(of_f, *of_source, cov, peak))
    return maps


def _mean_over_sources(maps: Iterable[Tensor]) -> Tensor:
    return torch.stack([one.mean(dim=(1, 2)) for one in maps]).mean(dim=0)


def _weighted_product(scales: Sequence[Sequence[Tensor]]) -> Tensor:
    """Weighted product of the maps' means over the scales, then the mean over both sources.

    A negative mean counts as 0: it has no real power.
    """
    means = [torch.stack([one.mean(dim=(1, 2)) for one in maps]) for maps in scales]
    powers = [
        mean.clamp(min=0) ** weight for mean, weight in zip(means, _SCALE_WEIGHTS, strict=True)
    ]
    return functools.reduce(torch.mul, powers).mean(dim=0)


def boxed_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SSIM as CDDFuse's evaluator: SUM of two, 7×7 box, sample covariance, L = 2."""
    taps = (1 / 7,) * 7
    sample = 49 / 48
    of_f = _moments(f, taps)
    total = f.new_zeros(len(f))
    for source in (a, b):
        of_source = _moments(source, taps)
        cov = _covariance(f, source, of_f, of_source, taps)
        luminance, structure = _similarity(
            _Moments(of_f.mean, sample * of_f.variance),
            of_source.mean,
            sample * of_source.variance,
            sample * cov,
            2.0,
        )
        total += (luminance * structure).mean(dim=(1, 2))
    return {"SSIM_py_sum_L2": total}


def weighted_quality(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Q_W of DRFusion (spec 9): Piella and Heijmans 2003, 8×8 windows, variance saliency, Q0.

    A window in which both sources are flat weighs nothing; where all are flat, Q_W is 0.
    """
    taps = (1 / 8,) * 8
    of_f, of_a, of_b = (_moments(x, taps) for x in (f, a, b))
    var_a, var_b = of_a.variance.clamp(min=0), of_b.variance.clamp(min=0)
    share = torch.where(var_a + var_b == 0, 0.5, var_a / (var_a + var_b))
    quality = share * _universal_index(f, a, of_f, of_a, taps)
    quality += (1 - share) * _universal_index(f, b, of_f, of_b, taps)
    saliency = torch.maximum(var_a, var_b)
    return {"Q_W": ratio((saliency * quality).sum(dim=(1, 2)), saliency.sum(dim=(1, 2)))}


def _universal_index(
    x: Tensor, y: Tensor, of_x: _Moments, of_y: _Moments, taps: Sequence[float]
) -> Tensor:
    """Q0 (Wang and Bovik 2002): SSIM with L = 0; two flat windows agree in structure."""
    cov = _covariance(x, y, of_x, of_y, taps)
    spread = of_x.variance.clamp(min=0) + of_y.variance.clamp(min=0)
    energy = of_x.mean.square() + of_y.mean.square()
    # Whole levels: a variance below this is what rounding leaves of zero.
    structure = torch.where(spread < 1e-9, 1.0, 2 * cov / spread)
    return structure * torch.where(energy == 0, 1.0, 2 * of_x.mean * of_y.mean / energy)


def _moments(x: Tensor, taps: Sequence[float]) -> _Moments:
    mean = filter_valid(x, taps)
    return _Moments(mean, filter_valid(x * x, taps) - mean * mean)


def _covariance(
    x: Tensor, y: Tensor, of_x: _Moments, of_y: _Moments, taps: Sequence[float]
) -> Tensor:
    return filter_valid(x * y, taps) - of_x.mean * of_y.mean


def _similarity(
    of_f: _Moments, mean: Tensor, variance: Tensor, cov: Tensor, peak: float
) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure terms of SSIM, K = (0.01, 0.03)."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * of_f.mean * mean + c1) / (of_f.mean.square() + mean.square() + c1)
    return luminance, (2 * cov + c2) / (of_f.variance + variance + c2)


# MEF-SSIM (Ma, Zeng and Wang 2015): windows of 11×11 = 121 pixels.
_AREA = len(_TAPS) ** 2
_EPS = 2.0**-52
_MEF_WEIGHTS = _SCALE_WEIGHTS[:3]


def exposure_similarity(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """MS_SSIM of the survey's kit: MEF-SSIM of Ma et al. 2015 over three scales.

    A negative mean counts as 0, as in MS_SSIM.
    """
    total = f.new_ones(len(f))
    for weight in _MEF_WEIGHTS:
        total = total * _mef_similarity(f, a, b).clamp(min=0) ** (weight / sum(_MEF_WEIGHTS))
        f, a, b = (halve_by_mean(x) for x in (f, a, b))
    return {"MS_SSIM_ml_mef": total}


def _mef_similarity(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compare the fused windows with the best one that both sources' windows could make.

    That window is Σ u_k (x_k - mean x_k), scaled; being linear in the sources, its Gaussian
    moments follow from theirs, and no window is ever cut out.
    """
    box = (1 / len(_TAPS),) * len(_TAPS)
    means, strengths = [], []
    for source in (a, b):
        mean, variance = _moments(source, box)
        means.append(mean)
        strengths.append((_AREA * variance).clamp(min=0).sqrt())
    cross = _AREA * (filter_valid(a * b, box) - means[0] * means[1])
    weights = _mef_weights(strengths, cross)
    largest = torch.maximum(*strengths) + 0.001
    length = _length(weights, strengths, cross)
    scale = torch.where(length > 0, largest / length, 0.0)
    u, v = (scale * weight for weight in weights)
    return _mef_map(f, (a, b), means, (u, v)).mean(dim=(1, 2))


def _mef_weights(strengths: Sequence[Tensor], cross: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of both sources' windows, the more alike the more equal."""
    norm = (strengths[0].square() + strengths[1].square() + 2 * cross).clamp(min=0).sqrt()
    alike = (norm + _EPS) / (strengths[0] + strengths[1] + _EPS)
    power = torch.tan(math.pi / 2 * alike.clamp(max=1 - _EPS)).clamp(max=10)
    stable = [strength + 0.001 for strength in strengths]
    raw = [(strength / len(_TAPS)) ** power + _EPS for strength in stable]
    total = raw[0] + raw[1]
    return raw[0] / total / stable[0], raw[1] / total / stable[1]


def _length(weights: Sequence[Tensor], strengths: Sequence[Tensor], cross: Tensor) -> Tensor:
    (u, v), (s, t) = weights, strengths
    return ((u * s).square() + (v * t).square() + 2 * u * v * cross).clamp(min=0).sqrt()


def _mef_map(
    f: Tensor, sources: Sequence[Tensor], means: Sequence[Tensor], factors: Sequence[Tensor]
) -> Tensor:
    a, b = sources
    (u, v), (of_f, of_a, of_b) = factors, (_moments(x, _TAPS) for x in (f, a, b))
    cov_ab, cov_fa, cov_fb = (
        _covariance(x, y, of_x, of_y, _TAPS)
        for x, y, of_x, of_y in ((a, b, of_a, of_b), (f, a, of_f, of_a), (f, b, of_f, of_b))
    )
    variance = u * u * of_a.variance + v * v * of_b.variance + 2 * u * v * cov_ab
    cov = u * cov_fa + v * cov_fb
    c = (0.03 * _PEAK) ** 2
    return (2 * cov + c) / (variance + of_f.variance + c)
