"""Optical blur.

Convention: H×W×C float32 in [0, 1]; sigma and kernel size in pixels; borders are mirrored without
repeating the edge pixel.  Legend: H W pixels, C channels.
"""

from typing import Annotated

import cv2
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from degradations.intervals import NonNegativeInterval, draw_uniform

# Cameras of 8k pixels do not blur so far; a kernel takes the square of it.
_MAX_SIZE_PX = 1023


def _odd(size_px: int) -> int:
    if not 1 <= size_px <= _MAX_SIZE_PX or size_px % 2 == 0:
        raise ValueError(
            f"blur size_px {size_px} must be odd, from 1 to {_MAX_SIZE_PX}, such as 21"
        )
    return size_px


OddSize = Annotated[int, AfterValidator(_odd)]


class BlurRanges(BaseModel):
    """Spec 3.5, VI Blur, last column: Gaussian 21 x 21, sigma uniform in [0.2, 4.0]."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size_px: OddSize = 21
    """Side of the kernel in pixels, odd."""
    sigma_range_px: NonNegativeInterval = (0.2, 4.0)
    """Width of the Gaussian in pixels, drawn uniformly."""


# A second class: a configuration that names one field must keep these defaults of the others.
class GaussianBlurRanges(BaseModel):
    """DRFusion spec 7: both cameras blurred with sigma 2.0 (measured 1.99 +- 0.02).

    21 pixels are 5 sigma to each side, so the sampled kernel is the Gaussian, not a part of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size_px: OddSize = 21
    """Side of the kernel in pixels, odd."""
    sigma_range_px: NonNegativeInterval = (2.0, 2.0)
    """Width of the Gaussian in pixels, drawn uniformly."""


class BlurParams(BaseModel):
    """An isotropic Gaussian; `size_px` is odd, sigma 0 is no blur."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: OddSize
    sigma_px: float = Field(ge=0, allow_inf_nan=False)


def draw_blur(ranges: BlurRanges | GaussianBlurRanges, rng: np.random.Generator) -> BlurParams:
    """Draw the width of the Gaussian."""
    return BlurParams(size_px=ranges.size_px, sigma_px=draw_uniform(ranges.sigma_range_px, rng))


def apply_blur(image: np.ndarray, params: BlurParams) -> np.ndarray:
    """Spec 3.5, VI Blur: convolve every channel with the sampled, normalised Gaussian."""
    if params.sigma_px == 0:  # OpenCV reads sigma 0 as "guess one from the size"
        return image.copy()
    size = (params.size_px, params.size_px)
    blurred = cv2.GaussianBlur(image, size, params.sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(image.shape)  # H W C; OpenCV drops a single channel axis
