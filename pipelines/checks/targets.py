"""What makes a pair a poor target: darkness, clipping, noise, blur, and cameras that do not agree.

The cameras' agreement is the correlation of their edges, each divided by its neighbourhood's, at the
offset where it is greatest. On seven published sets its median is 0.27 to 0.41 for pairs, and 0.07 to 0.11
for one picture of each of two scenes; 9 of 10 such pairs stay below 0.16.

Legend: H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.noise import estimate_noise_level
from pipelines.sources.pictures import grey_of

# Noise and blur are measured in the middle: a corner's blur is the lens's.
_MEASURED_PX = 512
_WIDTH_PX = 256  # edges are compared at this width
_NEIGHBOURS_PX = 25
_REACH = 0.08  # of the longer side: the largest offset that is looked for
_WHITE = 254


class Quality(BaseModel):
    """Measures of a scene; None where it lacks the camera.

    `dark` is one minus the visible picture's mean, `clipped` a share of white pixels, `noisy` a standard
    deviation in levels of 255, `blurred` lies between 0 and 1, `offset_px` between the cameras in pixels
    of the source, `agreement` is a correlation. Of two cameras the worse counts, to three digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dark: float | None = None
    clipped: float
    noisy: float
    blurred: float
    offset_px: float | None = None
    agreement: float | None = None


class Bounds(BaseModel):
    """What more of makes a poor target (`agreement`: less)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dark: float = 0.94
    clipped: float = 0.2
    noisy: float = 8.0
    blurred: float = 0.65
    offset_px: float = 8.0
    agreement: float = 0.14


def measure_quality(pictures: Mapping[str, np.ndarray]) -> Quality:
    """Measure a scene's pictures, uint8 H×W×C by camera."""
    greys = {camera: grey_of(image) for camera, image in pictures.items()}
    middles = [_middle(grey) for grey in greys.values()]
    found = {
        "clipped": max(float((grey >= _WHITE).mean()) for grey in greys.values()),
        "noisy": max(estimate_noise_level(grey[:, :, None] / np.float32(255)) for grey in middles),
        "blurred": max(map(_blur, middles)),
    }
    if "vi" in greys:
        found["dark"] = 1 - float(greys["vi"].mean()) / 255
    if len(greys) > 1:
        found["offset_px"], found["agreement"] = _offset(greys["vi"], greys["ir"])
    return Quality(**{name: round(value, 3) for name, value in found.items()})


def poor_reasons(quality: Quality, bounds: Bounds) -> dict[str, float]:
    """The measures that lie beyond their bounds. An offset of cameras that do not agree says nothing."""
    values = quality.model_dump(exclude_none=True)
    limits = bounds.model_dump()
    unrelated = values.get("agreement", 1) < limits["agreement"]
    poor = {
        name: value
        for name, value in values.items()
        if (value < limits[name] if name == "agreement" else value > limits[name])
    }
    if unrelated:
        poor.pop("offset_px", None)
    return poor


def _middle(grey: np.ndarray) -> np.ndarray:
    """The middle of a picture."""
    height, width = (min(side, _MEASURED_PX) for side in grey.shape)
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    return grey[top : top + height, left : left + width].astype(np.float32)


def _blur(grey: np.ndarray) -> float:
    """Crete et al., The blur effect (SPIE 6492, 2007): what of the differences stays after blurring."""
    shares = []
    for axis, kernel in ((0, (1, 9)), (1, (9, 1))):
        sharp = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(sharp - np.abs(np.diff(cv2.blur(grey, kernel), axis=axis)), 0)
        total = float(sharp.sum())
        shares.append(1 - float(lost.sum()) / total if total else 1.0)
    return max(shares)


def _offset(vi: np.ndarray, ir: np.ndarray) -> tuple[float, float]:
    """Length of the offset between two grey pictures in their pixels, and their agreement there."""
    height, width = vi.shape
    scale = min(1.0, _WIDTH_PX / width)
    side = (max(16, round(width * scale)), max(16, round(height * scale)))
    window = cv2.createHanningWindow(side, cv2.CV_32F)
    first, second = (_edges(grey, side) * window for grey in (vi, ir))
    power = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if power == 0:
        return 0.0, 0.0
    spectrum = np.fft.rfft2(first).conj() * np.fft.rfft2(second)
    found = np.fft.irfft2(spectrum, s=first.shape) / power  # H W
    reach = min(max(6, round(_REACH * max(side))), (min(side) - 1) // 2)
    near = np.roll(found, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    down, right = np.unravel_index(near.argmax(), near.shape)
    length = float(np.hypot(down - reach, right - reach)) / scale
    return length, float(near.max())


def _edges(grey: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Strength of the edges of a picture at the size `side` (width, height), of mean zero."""
    resized = cv2.resize(grey, side, interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(resized, (0, 0), 1.0)
    edges = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    # One strong edge must not stand for the picture.
    edges = np.minimum(edges / (cv2.blur(edges, (_NEIGHBOURS_PX, _NEIGHBOURS_PX)) + 1), 4)
    return edges - edges.mean()
