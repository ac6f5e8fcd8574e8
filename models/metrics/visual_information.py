"""Visual information fidelity in the pixel domain: VIF and VIFF.

Legend: B batch, H W pixels. `f` fused, `a` infrared, `b` visible: B×H×W levels 0..255, float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from models.metrics.windows import filter_valid, gaussian, ratio

# Stands in for "how small is zero" in Sheikh and Bovik's vifp_mscale.m.
_EPSILON = 1e-10
_NOISE_VARIANCE = 2.0
_TAPS = (17, 9, 5, 3)
# Below this side the fourth scale has no pixel left: 41 -> 33/2 = 17 -> 13/2 = 7 -> 5/2 = 3.
MIN_SIDE_PX = 41

# VIFF (Han et al. 2013): noise variance, guard of its ratio, weights of the scales.
_VIFF_NOISE_VARIANCE = 0.005 * 255**2
_VIFF_GUARD = 1e-7
_VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)


class _Channel(NamedTuple):
    """What one scale says of "fused = gain · source + residual", per pixel."""

    gain: Tensor
    var_source: Tensor
    var_residual: Tensor


def visual_information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """VIF = vifp(A, F) + vifp(B, F) (Sheikh and Bovik 2006), its parts, and VIFF (Han et al. 2013).

    All look at the same local moments, which are most of the work.
    """
    kept = {source: f.new_zeros(len(f)) for source in "ab"}
    whole = {source: f.new_zeros(len(f)) for source in "ab"}
    viff = f.new_zeros(len(f))
    for weight, (of_a, of_b) in zip(_VIFF_WEIGHTS, _scales(f, a, b), strict=True):
        for source, channel in (("a", of_a), ("b", of_b)):
            kept[source] += _bits_kept(channel, _NOISE_VARIANCE).sum(dim=(1, 2))
            whole[source] += _bits_whole(channel, _NOISE_VARIANCE).sum(dim=(1, 2))
        if weight:
            viff += weight * _fused_share(of_a, of_b)
    parts = {source: ratio(kept[source], whole[source]) for source in "ab"}
    return {
        "VIF": parts["a"] + parts["b"],
        "VIFF": viff,
        "VIFp_ir": parts["a"],
        "VIFp_vi": parts["b"],
    }


def saturated_visual_information(f: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """VIF as MATLAB computes it on uint8: products of levels saturate at 255 in the first scale."""
    kept = {source: f.new_zeros(len(f)) for source in "ab"}
    whole = {source: f.new_zeros(len(f)) for source in "ab"}
    for of_a, of_b in _scales(f, a, b, saturate=True):
        for source, channel in (("a", of_a), ("b", of_b)):
            kept[source] += _bits_kept(channel, _NOISE_VARIANCE).sum(dim=(1, 2))
            whole[source] += _bits_whole(channel, _NOISE_VARIANCE).sum(dim=(1, 2))
    parts = [ratio(kept[source], whole[source]) for source in "ab"]
    return {"VIF_ml2022_uint8": parts[0] + parts[1]}


def _scales(
    f: Tensor, a: Tensor, b: Tensor, *, saturate: bool = False
) -> Iterator[tuple[_Channel, _Channel]]:
    """Both sources' channels at four scales; filtered and halved before every scale but the first."""
    for scale, num_taps in enumerate(_TAPS):
        taps = gaussian(num_taps, num_taps / 5)
        if scale > 0:
            f, a, b = (filter_valid(x, taps, step=2) for x in (f, a, b))
        limit = 255.0 if saturate and scale == 0 else None
        mean_f = filter_valid(f, taps)
        var_f = _moment(f, f, taps, limit) - mean_f * mean_f
        yield (
            _channel(f, a, mean_f, var_f, taps, limit),
            _channel(f, b, mean_f, var_f, taps, limit),
        )


def _moment(x: Tensor, y: Tensor, taps: tuple[float, ...], limit: float | None) -> Tensor:
    product = x * y
    return filter_valid(product if limit is None else product.clamp(max=limit), taps)


def _channel(
    f: Tensor,
    source: Tensor,
    mean_f: Tensor,
    var_f: Tensor,
    taps: tuple[float, ...],
    limit: float | None,
) -> _Channel:
    """Least-squares gain and what is left over, with the guards of vifp_mscale.m."""
    mean_s = filter_valid(source, taps)
    var_s = (_moment(source, source, taps, limit) - mean_s * mean_s).clamp(min=0)
    cov = _moment(source, f, taps, limit) - mean_s * mean_f
    var_f = var_f.clamp(min=0)
    gain = cov / (var_s + _EPSILON)
    residual = var_f - gain * cov
    flat_s, flat_f = var_s < _EPSILON, var_f < _EPSILON
    gain = gain.masked_fill_(flat_s | flat_f, 0.0)
    residual = torch.where(flat_s | (gain < 0), var_f, residual).masked_fill_(flat_f, 0.0)
    return _Channel(
        gain.clamp_(min=0), var_s.masked_fill_(flat_s, 0.0), residual.clamp_(min=_EPSILON)
    )


def _bits_kept(channel: _Channel, noise_variance: float) -> Tensor:
    gain, var_source, var_residual = channel
    return torch.log10(1 + gain * gain * var_source / (var_residual + noise_variance))


def _bits_whole(channel: _Channel, noise_variance: float) -> Tensor:
    return torch.log10(1 + channel.var_source / noise_variance)


def _fused_share(of_a: _Channel, of_b: _Channel) -> Tensor:
    """Share of the information kept at one scale, per pixel of the source with the smaller gain."""
    from_a = of_a.gain < of_b.gain
    chosen = _Channel(*(torch.where(from_a, x, y) for x, y in zip(of_a, of_b, strict=True)))
    kept = (_bits_kept(chosen, _VIFF_NOISE_VARIANCE) + _VIFF_GUARD).sum(dim=(1, 2))
    return kept / (_bits_whole(chosen, _VIFF_NOISE_VARIANCE) + _VIFF_GUARD).sum(dim=(1, 2))
