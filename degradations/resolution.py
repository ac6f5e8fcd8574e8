"""Low resolution: every pixel of a coarser sensor is the mean of a block of fine ones.

Convention: H×W×C float32 in [0, 1]; the picture keeps its size, each mean fills its block, so
`y[::factor, ::factor]` is the coarse picture.  Legend: H W pixels, C channels, h w blocks.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from degradations.intervals import PositiveIntInterval


class LowResolutionRanges(BaseModel):
    """DRFusion spec 7: its composite infrared files are 4×4 block means."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    factor_range: PositiveIntInterval = (4, 4)
    """Side of a block that becomes one pixel, in pixels."""


class LowResolutionParams(BaseModel):
    """`factor` is the side of a block in pixels; 1 is no change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: int = Field(ge=1)


def draw_low_resolution(
    ranges: LowResolutionRanges, rng: np.random.Generator
) -> LowResolutionParams:
    """Draw the side of a block; both ends of the range can occur."""
    low, high = ranges.factor_range
    return LowResolutionParams(factor=int(rng.integers(low, high, endpoint=True)))


def apply_low_resolution(image: np.ndarray, params: LowResolutionParams) -> np.ndarray:
    """DRFusion spec 5, low resolution: A†A x, the block mean put back on the fine grid.

    Blocks start at the top left; the ones that the right and bottom edges cut are means of the
    pixels they have.
    """
    if params.factor == 1:
        return image.copy()
    height, width, _ = image.shape
    tops, lefts = np.arange(0, height, params.factor), np.arange(0, width, params.factor)
    # Double precision: a mean of equal pixels is then that pixel again, and stays inside [0, 1].
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), tops, axis=0), lefts, axis=1)
    heights, widths = np.diff(tops, append=height), np.diff(lefts, append=width)
    means = (sums / np.outer(heights, widths)[..., None]).astype(np.float32)  # h w C
    return means.repeat(heights, axis=0).repeat(widths, axis=1)  # H W C
