"""Fusion metrics in float64, by the definitions of specs/metrics.md ("spec" below).

Legend: B batch, C channels (1 or 3), H W pixels.

Every formula sees grey pictures of integer levels 0..255 as float64 (`to_grey`). Two conventions
that the spec leaves open: a ratio 0/0 counts as 0 (a flat picture correlates with nothing and
holds nothing to preserve), and PSNR of a picture equal to both sources is infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from models.metrics import (
    edges,
    perception,
    statistics,
    structure,
    visual_information,
    wavelet_information,
)

# Raise this when any value changes by more than rounding: rows of two versions are never compared.
METRIC_VERSION = "1"


class Family(NamedTuple):
    """Metrics that share most of their work, from pictures of at least so many pixels a side.

    `measure` takes f, a, b (B×H×W levels of fused, infrared, visible) and gives B values a name;
    those in `larger` it leaves out of pictures with fewer pixels a side than it says there.
    """

    names: tuple[str, ...]
    measure: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
    min_side_px: int = 1
    larger: Mapping[str, int] = MappingProxyType({})


FAMILIES: tuple[Family, ...] = (
    Family(("EN", "MI", "MI_py_nats"), statistics.information),
    Family(("SD",), statistics.contrast),
    Family(("SF", "AG", "AG_ml"), statistics.gradients, 2),
    Family(
        ("VIF", "VIFF", "VIFp_ir", "VIFp_vi"),
        visual_information.visual_information,
        visual_information.MIN_SIDE_PX,
    ),
    Family(("Qabf",), edges.edge_preservation),
    Family(("Nabf",), edges.artefacts),
    Family(
        ("SSIM", "MS_SSIM"),
        structure.structural_similarity,
        larger={"MS_SSIM": structure.MS_SSIM_MIN_SIDE_PX},
    ),
    Family(("SCD", "CC"), statistics.correlations),
    Family(("PSNR", "PSNR_py_maxF", "PSNR_ml", "MSE_py"), statistics.errors),
    Family(("PSNR_target", "SSIM_target"), structure.target_similarity),
    Family(("PSNR_target_affine",), structure.exposed_similarity),
    # DRFusion's, and what only variants need.
    Family(("Q_MI", "Q_NCIE"), statistics.normalised_information),
    # One number under the survey's name and under DRFusion's.
    Family(("Qcb", "Q_CB"), perception.contrast_preservation),
    Family(("Q_P",), perception.phase_congruency, 16),
    Family(("Q_W",), structure.weighted_quality, 8),
    Family(("SD_ml2022_uint8",), statistics.saturated_contrast),
    Family(("MI_ml_bits",), statistics.merged_information),
    Family(
        ("VIF_ml2022_uint8",),
        visual_information.saturated_visual_information,
        visual_information.MIN_SIDE_PX,
    ),
    Family(
        ("vifvec_sum",), wavelet_information.wavelet_information, wavelet_information.MIN_SIDE_PX
    ),
    Family(("Qabf_ml2022",), edges.small_edge_preservation),
    Family(("Nabf_ml_asCalled",), edges.swapped_artefacts),
    Family(("SSIM_ml_mean_L1",), structure.unit_similarity),
    Family(("SSIM_py_sum_L2",), structure.boxed_similarity, 7),
    Family(("MS_SSIM_ml_mef",), structure.exposure_similarity, 44),
)
# One definition a name.
# fmt: off
DEFAULT: tuple[str, ...] = (
    "EN", "SD", "SF", "AG", "MI", "VIF", "VIFF", "Qabf", "Nabf", "SSIM", "MS_SSIM", "SCD", "CC",
    "PSNR",
)
# fmt: on
# What an evaluation measures: sources are of high quality there, and make a target.
EVALUATED: tuple[str, ...] = (*DEFAULT, "PSNR_target", "SSIM_target", "PSNR_target_affine")
_NAMES = tuple(name for family in FAMILIES for name in family.names)
# Other definitions that papers publish under these names, and DRFusion's five (spec, table).
VARIANTS: tuple[str, ...] = tuple(name for name in _NAMES if name not in DEFAULT)
METRICS: tuple[str, ...] = (*DEFAULT, *VARIANTS)
_LOWER_IS_BETTER = ("Nabf", "Nabf_ml_asCalled", "MSE_py")
# What is better, for readers that compare: +1 means higher.
DIRECTION: Mapping[str, int] = MappingProxyType(
    {name: -1 if name in _LOWER_IS_BETTER else 1 for name in METRICS}
)
MIN_SIDE_PX: Mapping[str, int] = MappingProxyType(
    {
        name: family.larger.get(name, family.min_side_px)
        for family in FAMILIES
        for name in family.names
    }
)


def measure(
    fused: Tensor, vi: Tensor, ir: Tensor, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Measure fused pictures against their sources; each named metric gives B float64 values.

    `fused` and `vi` are B×3×H×W or B×1×H×W, `ir` B×1×H×W, all in [0, 1]. No name means DEFAULT.
    Raises ValueError for unknown names, unequal sizes, pictures too small for a metric, values
    outside [0, 1] or not finite.
    """
    wanted = DEFAULT if names is None else tuple(names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join(METRICS)}")
    pictures = (("fused", fused), ("vi", vi), ("ir", ir))
    sizes = {name: (x.shape[0], *x.shape[-2:]) for name, x in pictures}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"pictures differ in (batch, height, width): {sizes}; resize them first")
    _check_side(fused, wanted)
    f, b, a = (to_grey(x, name=name) for name, x in pictures)
    values: dict[str, Tensor] = {}
    for family in FAMILIES:
        if not set(family.names).isdisjoint(wanted):
            values |= family.measure(f, a, b)
    return {name: values[name] for name in wanted}


def measure_restored(restored: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """PSNR and SSIM of restored pictures against the clean ones, in grey; B float64 values each.

    Both are B×3×H×W or B×1×H×W in [0, 1]. Raises ValueError as `measure` does.
    """
    # The target of these metrics is the brighter of two sources: of the clean picture and black, the first.
    black = torch.zeros_like(clean[:, :1])
    found = measure(restored, clean, black, ("PSNR_target", "SSIM_target"))
    return {"PSNR": found["PSNR_target"], "SSIM": found["SSIM_target"]}


def measurable(height_px: int, width_px: int, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the named metrics that pictures of this size are large enough for."""
    return tuple(name for name in names if min(height_px, width_px) >= MIN_SIDE_PX[name])


def to_grey(picture: Tensor, *, name: str = "picture") -> Tensor:
    """Turn B×C×H×W in [0, 1] into B×H×W levels 0..255: round channels, weigh, round (half to even).

    The channels are rounded first, as if the picture had been saved with 8 bits.
    """
    if picture.ndim != 4 or picture.shape[1] not in (1, 3):
        raise ValueError(f"{name} has shape {tuple(picture.shape)}; give B×1×H×W or B×3×H×W")
    levels = (picture.to(torch.float64) * 255).round_()  # B C H W
    low, high = levels.aminmax()
    if not (low >= 0 and high <= 255):  # also false for NaN
        raise ValueError(
            f"{name} has levels {low.item():g}..{high.item():g} of 0..255; "
            "clamp it to [0, 1] and look for NaN"
        )
    if picture.shape[1] == 1:
        return levels[:, 0]
    red, green, blue = levels.unbind(dim=1)
    # Whole numbers over 1000: exact, so that a half is a half and rounds to even.
    return (red * 299).add_(green, alpha=587).add_(blue, alpha=114).div_(1000).round_()  # B H W


def _check_side(fused: Tensor, wanted: Sequence[str]) -> None:
    height, width = fused.shape[-2:]
    fits = measurable(height, width, wanted)
    for name in wanted:
        if name not in fits:
            raise ValueError(
                f"{name} needs {MIN_SIDE_PX[name]} pixels a side, got {width}x{height}; "
                f"leave {name} out"
            )
