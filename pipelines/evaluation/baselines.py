"""Classical fusion, which a trained model has to beat: the rows beside it in every evaluation.

Fusion rules work on luminance and keep the chroma of the visible picture; the restorations clean
each camera's picture before a rule fuses them.

They are fusers as the systems' are, and read no hints.

Legend: H W pixels, C channels; pictures are float32 in [0, 1], VI H×W×3 RGB and IR H×W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from models.system import Fused, Fuser, Hints

Baseline = Literal[
    "average",
    "maximum",
    "laplacian",
    "guided_filter",
    "non_local_means",
    "clahe",
    "unsharp",
    "wiener",
]
_Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
_Restore = Callable[[np.ndarray], np.ndarray]

_NUM_LEVELS = 4
# Li, Kang and Hu 2013, section III: radius and regularisation of the base's and details' weights.
_BASE_RADIUS_PX, _BASE_EPS, _DETAIL_RADIUS_PX, _DETAIL_EPS = 45, 0.3, 7, 1e-6


def source_average(vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
    """Fuse by the mean of both pictures: the gate's reference while there is no champion."""
    return Fused((vi + ir) / 2)  # B 3 H W


def source_maximum(vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
    """Fuse by the larger of both: high on MI, VIF and Qabf, and restores nothing."""
    return Fused(torch.maximum(vi, ir))  # B 3 H W


def fuse_laplacian(vi: np.ndarray, ir: np.ndarray) -> np.ndarray:
    """Laplacian pyramid: the larger detail of four levels, the mean of what is left (Burt 1983)."""
    fused_details: list[np.ndarray] = []
    base_vi, base_ir = vi, ir
    while len(fused_details) < _NUM_LEVELS and min(base_vi.shape) >= 4:
        small_vi, small_ir = cv2.pyrDown(base_vi), cv2.pyrDown(base_ir)
        size = (base_vi.shape[1], base_vi.shape[0])
        detail_vi = base_vi - cv2.pyrUp(small_vi, dstsize=size)
        detail_ir = base_ir - cv2.pyrUp(small_ir, dstsize=size)
        fused_details.append(np.where(np.abs(detail_vi) > np.abs(detail_ir), detail_vi, detail_ir))
        base_vi, base_ir = small_vi, small_ir
    fused = (base_vi + base_ir) / 2
    for detail in reversed(fused_details):
        fused = cv2.pyrUp(fused, dstsize=(detail.shape[1], detail.shape[0])) + detail
    return fused


def fuse_guided(vi: np.ndarray, ir: np.ndarray) -> np.ndarray:
    """Guided-filter fusion: two scales, weights that follow the sources' edges (Li et al. 2013)."""
    sources = (vi, ir)
    saliency = [
        cv2.GaussianBlur(np.abs(cv2.Laplacian(x, cv2.CV_32F)), (11, 11), 5) for x in sources
    ]
    chosen = (saliency[0] >= saliency[1]).astype(np.float32)
    bases = [cv2.blur(x, (31, 31)) for x in sources]
    details = [x - base for x, base in zip(sources, bases, strict=True)]
    fused = _blend(bases, sources, chosen, _BASE_RADIUS_PX, _BASE_EPS)
    return fused + _blend(details, sources, chosen, _DETAIL_RADIUS_PX, _DETAIL_EPS)


def _blend(
    layers: list[np.ndarray],
    guides: tuple[np.ndarray, np.ndarray],
    chosen: np.ndarray,
    radius_px: int,
    eps: float,
) -> np.ndarray:
    of_vi = np.clip(_guided(guides[0], chosen, radius_px, eps), 0, 1)
    of_ir = np.clip(_guided(guides[1], 1 - chosen, radius_px, eps), 0, 1)
    return (of_vi * layers[0] + of_ir * layers[1]) / (of_vi + of_ir + 1e-6)


def _guided(guide: np.ndarray, picture: np.ndarray, radius_px: int, eps: float) -> np.ndarray:
    """Guided filter of He, Sun and Tang 2013, equations 5, 6 and 8 (opencv-contrib has it, too)."""
    window = (2 * radius_px + 1, 2 * radius_px + 1)
    mean_g, mean_p = cv2.blur(guide, window), cv2.blur(picture, window)
    cov = cv2.blur(guide * picture, window) - mean_g * mean_p
    slope = cov / (cv2.blur(guide * guide, window) - mean_g * mean_g + eps)
    return cv2.blur(slope, window) * guide + cv2.blur(mean_p - slope * mean_g, window)


def remove_noise(picture: np.ndarray) -> np.ndarray:
    """Non-local means, its strength from the picture's own noise (Buades et al. 2005)."""
    levels = np.rint(picture * 255).astype(np.uint8)
    return _to_float(cv2.fastNlMeansDenoising(levels, None, _noise_levels(levels), 7, 15))


def equalise(picture: np.ndarray) -> np.ndarray:
    """CLAHE: local contrast, clipped at twice the mean (Zuiderveld 1994)."""
    levels = np.rint(picture * 255).astype(np.uint8)
    return _to_float(cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(levels))


def sharpen(picture: np.ndarray) -> np.ndarray:
    """Unsharp mask: the whole difference from a Gaussian of 2 px added again."""
    return np.clip(2 * picture - cv2.GaussianBlur(picture, (0, 0), 2.0), 0, 1)


def smooth_adaptively(picture: np.ndarray) -> np.ndarray:
    """Wiener filter of 5×5 windows, the noise being their mean variance (Lim 1990)."""
    # The offset keeps a flat window from being divided by a variance of zero.
    from scipy.signal import wiener  # seconds, which only those who call it should wait

    noise = (_noise_levels(picture * 255) / 255) ** 2 + 1e-8
    with np.errstate(divide="ignore", invalid="ignore"):
        # A window without variance is divided by it and then replaced by its mean.
        return np.clip(wiener(picture, 5, noise), 0, 1).astype(np.float32)


def _noise_levels(levels: np.ndarray) -> float:
    """Deviation of Gaussian noise in levels, from a second difference (Immerkær 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(levels.astype(np.float32), cv2.CV_32F, kernel))
    return float(np.sqrt(np.pi / 2) * response.mean() / 6)


def _to_float(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / 255


def _on_luminance(rule: _Rule, restore: _Restore | None = None) -> Fuser:
    """Make a rule for H×W luminances one for batches of tensors, restoring both sources first."""

    def fuse(vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        fused = [
            _fuse_one(rule, restore, colour.permute(1, 2, 0).numpy(), thermal[0].numpy())
            for colour, thermal in zip(vi, ir, strict=True)
        ]
        return Fused(torch.from_numpy(np.stack(fused)).permute(0, 3, 1, 2))

    return fuse


def _fuse_one(rule: _Rule, restore: _Restore | None, vi: np.ndarray, ir: np.ndarray) -> np.ndarray:
    luma, *chroma = cv2.split(cv2.cvtColor(np.ascontiguousarray(vi), cv2.COLOR_RGB2YCrCb))
    ir = np.ascontiguousarray(ir)
    if restore is not None:
        luma, ir = restore(luma), restore(ir)
    fused = np.clip(rule(luma, ir), 0, 1).astype(np.float32)
    return np.clip(cv2.cvtColor(cv2.merge([fused, *chroma]), cv2.COLOR_YCrCb2RGB), 0, 1)


BASELINES: Mapping[str, Fuser] = MappingProxyType(
    {
        "average": source_average,
        "maximum": source_maximum,
        "laplacian": _on_luminance(fuse_laplacian),
        "guided_filter": _on_luminance(fuse_guided),
        # Restoration first, then the Laplacian pyramid.
        "non_local_means": _on_luminance(fuse_laplacian, remove_noise),
        "clahe": _on_luminance(fuse_laplacian, equalise),
        "unsharp": _on_luminance(fuse_laplacian, sharpen),
        "wiener": _on_luminance(fuse_laplacian, smooth_adaptively),
    }
)
# Those that fuse and restore nothing: what is given restored pictures.
RULES: tuple[Baseline, ...] = ("average", "maximum", "laplacian", "guided_filter")
assert tuple(BASELINES) == get_args(Baseline)
