"""Tone degradations: low light and over-exposure (VI), low contrast (IR).

Convention: H×W×C float32 in [0, 1]; `gain` and `gamma` without unit, offsets in 8-bit levels;
what leaves the range is clipped, as a sensor does.  Legend: H W pixels, C channels.
"""

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from degradations.intervals import Interval, NonNegativeInterval, draw_uniform


class LowLightRanges(BaseModel):
    """Spec 3.5, VI LL, gain and gamma model.

    Fitted to the captured `LL` files against their targets: gamma 1.3 to 2.4, gain 0.45 to 0.85,
    the stronger gamma with the higher gain.  The defaults bring such targets to the same means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gain_range: NonNegativeInterval = (0.45, 0.75)
    """Factor on the picture after gamma."""
    gamma_range: NonNegativeInterval = (1.4, 1.8)
    """Exponent of the tone curve; above 1 darkens."""


class OverExposureRanges(BaseModel):
    """Spec 3.5, VI OE, gain and clip.

    A gamma below 1 is added to the gain: both captured `OE` files lift the shadows more than the
    lights (fits: gamma 0.3 and 0.6, gain near 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gain_range: NonNegativeInterval = (1.1, 1.5)
    """Factor on the picture after gamma."""
    gamma_range: NonNegativeInterval = (0.5, 0.8)
    """Exponent of the tone curve; below 1 lightens."""


class ExposureParams(BaseModel):
    """The tone curve gain * x ** gamma; both 1 is no change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float = Field(ge=0, allow_inf_nan=False)
    gamma: float = Field(gt=0, allow_inf_nan=False)


class LowContrastRanges(BaseModel):
    """Spec 3.5, IR LC: 0.5 x + 90, with a modest range round both numbers; nothing is clipped."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    slope_range: NonNegativeInterval = (0.4, 0.6)
    """Factor on the picture."""
    offset_range_level: Interval = (80.0, 100.0)
    """Added after it, in levels of 0 to 255."""


class LowContrastParams(BaseModel):
    """The line slope * x + offset; slope 1 and offset 0 is no change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(ge=0, allow_inf_nan=False)
    offset_level: float = Field(allow_inf_nan=False)


def draw_exposure(
    ranges: LowLightRanges | OverExposureRanges, rng: np.random.Generator
) -> ExposureParams:
    """Draw a tone curve."""
    return ExposureParams(
        gain=draw_uniform(ranges.gain_range, rng), gamma=draw_uniform(ranges.gamma_range, rng)
    )


def draw_low_contrast(ranges: LowContrastRanges, rng: np.random.Generator) -> LowContrastParams:
    """Draw a line."""
    return LowContrastParams(
        slope=draw_uniform(ranges.slope_range, rng),
        offset_level=draw_uniform(ranges.offset_range_level, rng),
    )


def apply_exposure(image: np.ndarray, params: ExposureParams) -> np.ndarray:
    """Spec 3.5, VI LL and OE: y = clip(gain * x ** gamma)."""
    curved = cv2.pow(image, params.gamma).reshape(image.shape)  # H W C
    return np.clip(curved * np.float32(params.gain), 0, 1)


def apply_low_contrast(image: np.ndarray, params: LowContrastParams) -> np.ndarray:
    """Spec 3.6, low contrast: y = saturate(slope * x + offset)."""
    return np.clip(image * np.float32(params.slope) + np.float32(params.offset_level / 255), 0, 1)
