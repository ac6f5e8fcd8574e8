"""Metrics of levels and their statistics: entropy, contrast, gradients, correlation, error.

Legend: B batch, H W pixels. `f` fused, `a` infrared, `b` visible: B×H×W levels 0..255, float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.metrics.windows import ratio

_NUM_LEVELS = 256


def information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """EN of the fused picture; MI = I(F;A) + I(F;B) in bits, and in nats as CDDFuse prints it."""
    entropy = entropy_bits(count_levels(f))
    shared = mutual_bits(f, a) + mutual_bits(f, b)
    return {"EN": entropy, "MI": shared, "MI_py_nats": shared * math.log(2)}


def merged_information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """MI whose joint histogram counts level 255 as 254: the Image-Fusion survey's MATLAB tables."""
    total = f.new_zeros(len(f))
    merged_f, *merged = (x.clamp(max=_NUM_LEVELS - 2) for x in (f, a, b))
    for source, merged_source in zip((a, b), merged, strict=True):
        joint = count_levels(merged_f * _NUM_LEVELS + merged_source, _NUM_LEVELS**2)
        alone = entropy_bits(count_levels(f)) + entropy_bits(count_levels(source))
        total += alone - entropy_bits(joint)
    return {"MI_ml_bits": total}


def normalised_information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Q_MI (Hossny et al. 2008) and Q_NCIE (Wang et al. 2008), of DRFusion (spec 9).

    Both stretch each picture to 0..255 first, as the published evaluators do; that changes
    levels but, without merging any, no entropy.
    """
    f, a, b = (_stretched(x) for x in (f, a, b))
    h_f, h_a, h_b = (entropy_bits(count_levels(x)) for x in (f, a, b))
    i_fa, i_fb, i_ab = mutual_bits(f, a), mutual_bits(f, b), mutual_bits(a, b)
    q_mi = 2 * (ratio(i_fa, h_f + h_a) + ratio(i_fb, h_f + h_b))
    return {"Q_MI": q_mi, "Q_NCIE": _nonlinear_correlation(i_ab / 8, i_fa / 8, i_fb / 8)}


def _nonlinear_correlation(ab: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """1 + Σ λ/3 · log256(λ/3) over the eigenvalues of the pairs' correlation matrix (spec 9)."""
    one = torch.ones_like(ab)
    rows = [torch.stack(row, dim=-1) for row in ((one, ab, fa), (ab, one, fb), (fa, fb, one))]
    share = torch.linalg.eigvalsh(torch.stack(rows, dim=-2)).clamp(min=0) / 3  # B 3
    return 1 + torch.special.xlogy(share, share).sum(dim=-1) / math.log(_NUM_LEVELS)


def contrast(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SD: population standard deviation of the fused picture, in levels."""
    return {"SD": f.flatten(1).std(dim=1, correction=0)}


def saturated_contrast(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SD as MATLAB computes it on uint8, where differences and squares saturate at 0 and 255."""
    difference = _to_uint8(f - f.mean(dim=(1, 2), keepdim=True))
    return {"SD_ml2022_uint8": _to_uint8(difference.square()).mean(dim=(1, 2)).sqrt()}


def gradients(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """SF, root of the summed mean squares of neighbours' differences; AG, mean gradient.

    AG takes central differences inside and one-sided ones at the border; `AG_ml` divides the sum
    by (H-1)(W-1).
    """
    rows, columns = f.diff(dim=2).square(), f.diff(dim=1).square()
    frequency = (rows.mean(dim=(1, 2)) + columns.mean(dim=(1, 2))).sqrt()
    gy, gx = torch.gradient(f, dim=(1, 2))
    total = ((gx.square() + gy.square()) / 2).sqrt().sum(dim=(1, 2))
    height, width = f.shape[1:]
    return {
        "SF": frequency,
        "AG": total / (height * width),
        "AG_ml": total / ((height - 1) * (width - 1)),
    }


def correlations(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """CC, mean of corr(F, A) and corr(F, B); SCD (Aslantas and Bendes 2015)."""
    f, a, b = (x.flatten(1) - x.mean(dim=(1, 2))[:, None] for x in (f, a, b))
    return {
        "SCD": _correlation(f - b, a) + _correlation(f - a, b),
        "CC": (_correlation(f, a) + _correlation(f, b)) / 2,
    }


def errors(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """PSNR in dB with peak 255, of the mean of both squared errors, and its published variants."""
    mse = ((f - a).square() + (f - b).square()).mean(dim=(1, 2)) / 2
    return {
        "PSNR": 10 * torch.log10(255.0**2 / mse),
        "PSNR_py_maxF": 10 * torch.log10(f.amax(dim=(1, 2)) ** 2 / mse),
        # The kit's pictures are 0..1, its peak is 255: 20 log10(255) = 48.13 dB too high.
        "PSNR_ml": 10 * torch.log10(255.0**2 / (mse / 255.0**2)),
        "MSE_py": mse,
    }


def count_levels(levels: Tensor, num_bins: int = _NUM_LEVELS) -> Tensor:
    """Count whole levels 0..num_bins-1 of B×H×W: B×num_bins."""
    offsets = num_bins * torch.arange(len(levels), device=levels.device).view(-1, 1)
    flat = levels.flatten(1).long() + offsets
    counts = torch.bincount(flat.flatten(), minlength=num_bins * len(levels))
    return counts.view(len(levels), num_bins)


def entropy_bits(counts: Tensor) -> Tensor:
    """Shannon entropy of B histograms, in bits."""
    share = counts.to(torch.float64) / counts.sum(dim=1, keepdim=True)
    return -torch.special.xlogy(share, share).sum(dim=1) / math.log(2)


def mutual_bits(x: Tensor, y: Tensor) -> Tensor:
    """Mutual information of two pictures' levels, in bits."""
    joint = count_levels(x * _NUM_LEVELS + y, _NUM_LEVELS**2).view(-1, _NUM_LEVELS, _NUM_LEVELS)
    of_x, of_y = entropy_bits(joint.sum(dim=2)), entropy_bits(joint.sum(dim=1))
    return of_x + of_y - entropy_bits(joint.flatten(1))


def _stretched(x: Tensor) -> Tensor:
    low, high = x.amin(dim=(1, 2), keepdim=True), x.amax(dim=(1, 2), keepdim=True)
    # Half away from zero, as MATLAB rounds.
    return (ratio(x - low, high - low) * 255 + 0.5).floor()


def _to_uint8(x: Tensor) -> Tensor:
    # MATLAB rounds halves away from zero; what is below zero saturates anyway.
    return (x + 0.5).floor().clamp(0, 255)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of B×N numbers whose mean is zero."""
    norms = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return ratio((x * y).sum(dim=1), norms)
