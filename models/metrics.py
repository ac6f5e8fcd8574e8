"""Fusion metrics in float64, by the default definitions of specs/metrics.md ("spec" below).

Legend: B batch, C channels (1 or 3), H W pixels, N filter taps.

Every formula sees grey pictures of integer levels 0..255 as float64 (`to_grey`). Two conventions
that the spec leaves open: a ratio 0/0 counts as 0 (a flat picture correlates with nothing and
holds nothing to preserve), and PSNR of a picture equal to both sources is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

# Raise this when any value changes by more than rounding: rows of two versions are never compared.
METRIC_VERSION = "1"

# Stands in for "how small is zero" in Sheikh and Bovik's vifp_mscale.m.
_VIF_EPSILON = 1e-10
_VIF_NOISE_VARIANCE = 2.0
_VIF_TAPS = (17, 9, 5, 3)
# Below this side the fourth VIF scale has no pixel left: 41 -> 33/2 = 17 -> 13/2 = 7 -> 5/2 = 3.
MIN_SIDE_PX = 41


def measure(
    fused: Tensor, vi: Tensor, ir: Tensor, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Measure fused pictures against their sources; each named metric gives B float64 values.

    `fused` and `vi` are B×3×H×W or B×1×H×W, `ir` B×1×H×W, all in [0, 1]. No name means all.
    Raises ValueError for unknown names, unequal sizes, values outside [0, 1] or not finite.
    """
    wanted = DEFAULT if names is None else tuple(names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join(METRICS)}")
    sizes = {name: (x.shape[0], *x.shape[-2:]) for name, x in _named(fused, vi, ir)}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"pictures differ in (batch, height, width): {sizes}; resize them first")
    f, b, a = (to_grey(x, name=name) for name, x in _named(fused, vi, ir))
    return {name: METRICS[name](f, a, b) for name in wanted}


def to_grey(picture: Tensor, *, name: str = "picture") -> Tensor:
    """Turn B×C×H×W in [0, 1] into B×H×W levels 0..255: round channels, weigh, round (half to even).

    The channels are rounded first, as if the picture had been saved with 8 bits.
    """
    if picture.ndim != 4 or picture.shape[1] not in (1, 3):
        raise ValueError(f"{name} has shape {tuple(picture.shape)}; give B×1×H×W or B×3×H×W")
    levels = (picture.to(torch.float64) * 255).round()  # B C H W
    low, high = levels.aminmax()
    if not (low >= 0 and high <= 255):  # also false for NaN
        raise ValueError(
            f"{name} has levels {low.item():g}..{high.item():g} of 0..255; "
            "clamp it to [0, 1] and look for NaN"
        )
    if picture.shape[1] == 1:
        return levels[:, 0]
    # Whole numbers over 1000: exact, so that a half is a half and rounds to even.
    weights = levels.new_tensor([299.0, 587.0, 114.0]).view(1, 3, 1, 1)
    return ((levels * weights).sum(dim=1) / 1000).round()  # B H W


def entropy(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """EN: Shannon entropy of the fused picture's 256 levels, in bits."""
    return _entropy_bits(_histogram(f, 256))


def standard_deviation(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SD: population standard deviation of the fused picture, in levels."""
    return f.flatten(1).std(dim=1, correction=0)


def spatial_frequency(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SF: root of the summed mean squares of horizontal and vertical differences, in levels."""
    rows = f.diff(dim=2).square().mean(dim=(1, 2))
    columns = f.diff(dim=1).square().mean(dim=(1, 2))
    return (rows + columns).sqrt()


def average_gradient(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """AG: mean of sqrt((gx² + gy²) / 2), central differences inside, one-sided at the border."""
    gy, gx = torch.gradient(f, dim=(1, 2))
    return ((gx.square() + gy.square()) / 2).sqrt().mean(dim=(1, 2))


def mutual_information(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MI: I(F;A) + I(F;B) from histograms of 256 levels, in bits."""
    entropy_f = _entropy_bits(_histogram(f, 256))
    total = torch.zeros_like(entropy_f)
    for source in (a, b):
        joint = _entropy_bits(_histogram(f * 256 + source, 65536))
        total += entropy_f + _entropy_bits(_histogram(source, 256)) - joint
    return total


def visual_information_fidelity(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """VIF: vifp(A, F) + vifp(B, F) of Sheikh and Bovik (TIP 2006), pixel domain."""
    _check_vif_size(f)
    return _vifp(a, f) + _vifp(b, f)


def edge_preservation(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Qabf: edge strength and direction kept from both sources (Xydeas and Petrovic 2000)."""
    strength_f, angle_f = _edges(f)
    kept = torch.zeros(len(f), dtype=f.dtype, device=f.device)
    weight = torch.zeros_like(kept)
    for source in (a, b):
        strength, angle = _edges(source)
        quality = _strength_kept(strength, strength_f) * _angle_kept(angle, angle_f)
        kept += (quality * strength).sum(dim=(1, 2))
        weight += strength.sum(dim=(1, 2))
    return _ratio(kept, weight)


def structural_similarity(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SSIM: mean of SSIM(F, A) and SSIM(F, B) (Wang et al. 2004), L = 255, replicate padding."""
    return (_ssim(f, a) + _ssim(f, b)) / 2


def sum_of_correlated_differences(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SCD: corr(F - B, A) + corr(F - A, B) (Aslantas and Bendes 2015)."""
    return _correlation(f - b, a) + _correlation(f - a, b)


def correlation_coefficient(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """CC: mean of corr(F, A) and corr(F, B)."""
    return (_correlation(f, a) + _correlation(f, b)) / 2


def peak_signal_to_noise(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """PSNR: 10 log10(255² / MSE) in dB, MSE being the mean over both sources."""
    error = ((f - a).square() + (f - b).square()).mean(dim=(1, 2)) / 2
    return 10 * torch.log10(255.0**2 / error)


METRICS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "EN": entropy,
        "SD": standard_deviation,
        "SF": spatial_frequency,
        "AG": average_gradient,
        "MI": mutual_information,
        "VIF": visual_information_fidelity,
        "Qabf": edge_preservation,
        "SSIM": structural_similarity,
        "SCD": sum_of_correlated_differences,
        "CC": correlation_coefficient,
        "PSNR": peak_signal_to_noise,
    }
)
DEFAULT: tuple[str, ...] = tuple(METRICS)
# What is better, for readers that compare: +1 means higher. Nabf, when it comes, will be -1.
DIRECTION: Mapping[str, int] = MappingProxyType(dict.fromkeys(METRICS, 1))


def _named(fused: Tensor, vi: Tensor, ir: Tensor) -> tuple[tuple[str, Tensor], ...]:
    return (("fused", fused), ("vi", vi), ("ir", ir))


def _histogram(levels: Tensor, num_bins: int) -> Tensor:
    offsets = num_bins * torch.arange(len(levels), device=levels.device).view(-1, 1)
    flat = levels.flatten(1).long() + offsets
    counts = torch.bincount(flat.flatten(), minlength=num_bins * len(levels))
    return counts.view(len(levels), num_bins)  # B bins


def _entropy_bits(counts: Tensor) -> Tensor:
    share = counts.to(torch.float64) / counts.sum(dim=1, keepdim=True)
    return -torch.special.xlogy(share, share).sum(dim=1) / math.log(2)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    # 0/0 counts as 0, see the module's docstring.
    return torch.where(denominator == 0, 0.0, numerator / denominator)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.flatten(1), y.flatten(1)
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    norms = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return _ratio((x * y).sum(dim=1), norms)


def _gaussian(num_taps: int, sigma_px: float) -> list[float]:
    centre = (num_taps - 1) / 2
    weights = [math.exp(-((i - centre) ** 2) / (2 * sigma_px**2)) for i in range(num_taps)]
    return [weight / sum(weights) for weight in weights]


def _filter_valid(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Correlate B×H×W with a separable window, keeping only where the window fits.

    One picture at a time and by shifted sums: eight times faster than float64 conv2d on a CPU.
    """
    return torch.stack([_shift_sum(_shift_sum(picture, taps, 0), taps, 1) for picture in x])


def _shift_sum(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    length = x.shape[dim] - len(taps) + 1
    total = x.narrow(dim, 0, length) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        total.add_(x.narrow(dim, i, length), alpha=tap)
    return total


def _moments(x: Tensor, y: Tensor, taps: Sequence[float]) -> tuple[Tensor, ...]:
    """Return local means, variances and covariance: mean x, mean y, var x, var y, cov."""
    mean_x, mean_y = _filter_valid(x, taps), _filter_valid(y, taps)
    var_x = _filter_valid(x * x, taps) - mean_x * mean_x
    var_y = _filter_valid(y * y, taps) - mean_y * mean_y
    cov = _filter_valid(x * y, taps) - mean_x * mean_y
    return mean_x, mean_y, var_x, var_y, cov


def _check_vif_size(x: Tensor) -> None:
    if min(x.shape[-2:]) < MIN_SIDE_PX:
        size = f"{x.shape[-1]}x{x.shape[-2]}"
        raise ValueError(f"VIF needs {MIN_SIDE_PX} pixels a side, got {size}; leave VIF out")


def _vifp(reference: Tensor, distorted: Tensor) -> Tensor:
    """Pixel-domain VIF over four scales; filtered and halved before every scale but the first."""
    kept = torch.zeros(len(reference), dtype=reference.dtype, device=reference.device)
    whole = torch.zeros_like(kept)
    for scale, num_taps in enumerate(_VIF_TAPS):
        taps = _gaussian(num_taps, num_taps / 5)
        if scale > 0:
            reference = _filter_valid(reference, taps)[:, ::2, ::2]
            distorted = _filter_valid(distorted, taps)[:, ::2, ::2]
        kept_here, whole_here = _vif_information(reference, distorted, taps)
        kept, whole = kept + kept_here, whole + whole_here
    return _ratio(kept, whole)


def _vif_information(
    reference: Tensor, distorted: Tensor, taps: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Information of one scale: what the distorted picture keeps, what the reference holds."""
    _, _, var_r, var_d, cov = _moments(reference, distorted, taps)
    var_r, var_d = var_r.clamp(min=0), var_d.clamp(min=0)
    gain, residual = _vif_channel(var_r, var_d, cov)
    var_r = torch.where(var_r < _VIF_EPSILON, 0.0, var_r)
    signal = 1 + gain * gain * var_r / (residual + _VIF_NOISE_VARIANCE)
    kept = torch.log10(signal).sum(dim=(1, 2))
    return kept, torch.log10(1 + var_r / _VIF_NOISE_VARIANCE).sum(dim=(1, 2))


def _vif_channel(var_r: Tensor, var_d: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and residual variance of "distorted = gain · reference + residual", with its guards."""
    gain = cov / (var_r + _VIF_EPSILON)
    residual = var_d - gain * cov
    flat_r, flat_d = var_r < _VIF_EPSILON, var_d < _VIF_EPSILON
    gain = gain.masked_fill(flat_r | flat_d, 0.0)
    residual = torch.where(flat_r, var_d, residual).masked_fill(flat_d, 0.0)
    residual = torch.where(gain < 0, var_d, residual).clamp(min=_VIF_EPSILON)
    return gain.clamp(min=0), residual


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel strength and direction (radians in (-π/2, π/2]) with zero padding, B×H×W each.

    y points up. That matters: a horizontal slope of 0 counts as +π/2, so turning y round changes
    how far such an edge is from its neighbours, and Qabf by up to 0.4 %.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    sx = _span(_smooth(padded, 1), 2)
    sy = -_span(_smooth(padded, 2), 1)
    level = sx == 0
    angle = torch.atan(sy / torch.where(level, 1.0, sx))
    return (sx * sx + sy * sy).sqrt(), torch.where(level, math.pi / 2, angle)


def _span(x: Tensor, dim: int) -> Tensor:
    length = x.shape[dim] - 2
    return x.narrow(dim, 2, length) - x.narrow(dim, 0, length)


def _smooth(x: Tensor, dim: int) -> Tensor:
    length = x.shape[dim] - 2
    before, here, after = (x.narrow(dim, start, length) for start in range(3))
    return before + 2 * here + after


def _strength_kept(source: Tensor, fused: Tensor) -> Tensor:
    # Γg .9994, κg -15, σg .5. Where both strengths are equal, the relative strength is the
    # strength itself: a quirk of the published evaluators that their tables carry (spec, Qabf).
    weaker, stronger = torch.minimum(source, fused), torch.maximum(source, fused)
    relative = torch.where(source == fused, source, weaker / stronger)
    return 0.9994 / (1 + torch.exp(-15 * (relative - 0.5)))


def _angle_kept(source: Tensor, fused: Tensor) -> Tensor:
    # Γα .9879, κα -22, σα .8.
    relative = 1 - (source - fused).abs() / (math.pi / 2)
    return 0.9879 / (1 + torch.exp(-22 * (relative - 0.8)))


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    taps = _gaussian(11, 1.5)
    x, y = (F.pad(z[:, None], (5, 5, 5, 5), mode="replicate")[:, 0] for z in (x, y))
    mean_x, mean_y, var_x, var_y, cov = _moments(x, y, taps)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2))
