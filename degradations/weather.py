"""Weather between the scene and the visible camera: rain streaks and haze.

Convention: H×W×C float32 in [0, 1]; angles in degrees, 0 = falling straight down, positive =
anticlockwise; lengths in pixels.  Legend: H W pixels, C channels, L length of the streak kernel.
"""

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from degradations.intervals import Interval, NonNegativeInterval, draw_seed, draw_uniform

# Weights of the 3 x 3 filter that gives every drop a faint cross (spec 3.6, rain).
DROP_KERNEL = np.array([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]], dtype=np.float32)


class RainRanges(BaseModel):
    """Spec 3.5, VI Rain (EMS): alpha 0.9, beta 0.8, angle uniform in [-45, 45]."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    angle_range_deg: Interval = (-45.0, 45.0)
    """Direction of the streaks, in degrees."""
    alpha: float = Field(default=0.9, ge=0, le=1)
    """Weight of the scene."""
    beta_level: float = Field(default=0.8, ge=0, le=1e6)
    """Weight of the streaks."""
    drop_fraction: float = Field(default=5 / 256, ge=0, le=1)
    """Share of pixels that hold a drop."""
    length_px: int = Field(default=50, ge=1, le=1023)
    """Side of the streak kernel in pixels; a streak is half as long."""


class RainParams(BaseModel):
    """`alpha` is the weight of the scene, `drop_fraction` the share of pixels that hold a drop.

    Alpha 1 and beta 0 is no change.  `length_px` is the side of the streak kernel; the streak in
    it is half as long (spec 3.6).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    angle_deg: float = Field(allow_inf_nan=False)
    alpha: float = Field(ge=0, le=1)
    beta_level: float = Field(ge=0, allow_inf_nan=False)
    drop_fraction: float = Field(ge=0, le=1)
    length_px: int = Field(ge=1)
    seed: int = Field(ge=0)


class HazeRanges(BaseModel):
    """Spec 3.6, haze (EMS): beta 0.12 and airlight 0.8 are the values of its script."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    beta_range: NonNegativeInterval = (0.12, 0.12)
    """Extinction per unit of depth; the depth goes from 0 to 17."""
    airlight: float = Field(default=0.8, ge=0, le=1)
    """Brightness of the haze, in [0, 1]."""


class HazeParams(BaseModel):
    """`beta` is the extinction per unit of the model's depth (0 to 17); 0 is no haze."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(ge=0, allow_inf_nan=False)
    airlight: float = Field(ge=0, le=1)


def draw_rain(ranges: RainRanges, rng: np.random.Generator) -> RainParams:
    """Draw the angle and the seed of the drops."""
    return RainParams(
        angle_deg=draw_uniform(ranges.angle_range_deg, rng),
        alpha=ranges.alpha,
        beta_level=ranges.beta_level,
        drop_fraction=ranges.drop_fraction,
        length_px=ranges.length_px,
        seed=draw_seed(rng),
    )


def draw_haze(ranges: HazeRanges, rng: np.random.Generator) -> HazeParams:
    """Draw the density."""
    return HazeParams(beta=draw_uniform(ranges.beta_range, rng), airlight=ranges.airlight)


def apply_rain(image: np.ndarray, params: RainParams) -> np.ndarray:
    """Spec 3.6, rain (EMS): y = alpha x + (1 - alpha) r + beta, the same streaks r per channel."""
    height, width, _ = image.shape
    weight = (1 - params.alpha) / 255
    veil = _streaks(height, width, params) * np.float32(weight)  # H W
    veil += np.float32(params.beta_level / 255)
    return np.clip(image * np.float32(params.alpha) + veil[..., None], 0, 1)


def apply_haze(image: np.ndarray, params: HazeParams) -> np.ndarray:
    """Spec 3.6, haze (EMS): y = x t + A (1 - t), t = exp(-beta d)."""
    height, width, _ = image.shape
    transmission = np.exp(np.float32(-params.beta) * _haze_depth(height, width))[..., None]
    return image * transmission + np.float32(params.airlight) * (1 - transmission)  # H W C


def _streaks(height: int, width: int, params: RainParams) -> np.ndarray:
    rng = np.random.Generator(np.random.SFC64(params.seed))
    field = rng.random((height, width), dtype=np.float32) * np.float32(256)  # H W
    field[field < 256 * (1 - params.drop_fraction)] = 0
    drops = cv2.filter2D(field, -1, DROP_KERNEL)  # H W
    streaks = cv2.filter2D(drops, -1, _streak_kernel(params.length_px, params.angle_deg))
    streaks -= streaks.min()
    span = streaks.max()
    # A small image may hold no drop at all; there is nothing to stretch then.
    return np.floor(streaks / span * 255) if span > 0 else streaks  # H W


def _streak_kernel(length_px: int, angle_deg: float) -> np.ndarray:
    """A diagonal line turned upright, then by the angle, and softened (spec 3.6, rain)."""
    centre = (length_px / 2, length_px / 2)
    turn = cv2.getRotationMatrix2D(centre, angle_deg - 45, 0.5)
    diagonal = np.eye(length_px, dtype=np.float32)  # L L
    line = cv2.warpAffine(diagonal, turn, (length_px, length_px))
    return cv2.GaussianBlur(line, (3, 3), 0)  # L L


def _haze_depth(height: int, width: int) -> np.ndarray:
    """Depth d of spec 3.6, haze, on a 640 x 480 raster stretched over the image.

    Two deviations: the raster is stretched, so that the haze looks alike at every size, and the
    depth stops at 0, where the script would brighten (t > 1) the far corners.
    """
    row = (np.arange(height, dtype=np.float32)[:, None] + 1) * np.float32(480 / height)
    col = (np.arange(width, dtype=np.float32)[None, :] + 1) * np.float32(640 / width)
    distance = np.sqrt((row - 100) ** 2 + (col - 300) ** 2)  # H W
    return np.maximum(17 - np.float32(0.04) * distance, 0)  # H W
