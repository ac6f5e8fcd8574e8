"""Sensor noise: random (Gaussian, shot, salt and pepper), plain Gaussian, and stripe noise.

Convention: H×W×C float32 in [0, 1]; strengths in 8-bit levels; the field is regenerated from the
`seed` in the parameters, so a record reproduces the pixels.  Legend: H W pixels, C channels.
"""

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from degradations.intervals import (
    NonNegativeInterval,
    NonNegativeIntInterval,
    draw_seed,
    draw_uniform,
)

# White noise keeps its std: the sum of squares is 1.
_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6


class ViRandomNoiseRanges(BaseModel):
    """Spec 3.5, VI RN (EMS): Gaussian sigma 10, then Poisson with a peak of 70 to 90 counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sigma_range_level: NonNegativeInterval = (10.0, 10.0)
    """Std of the Gaussian noise, in levels of 0 to 255."""
    peak_range: NonNegativeIntInterval = (70, 90)
    """Mean photon count of a white pixel; 0 turns the shot noise off."""
    salt_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of pixels that become white."""
    pepper_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of pixels that become black."""


# A second class and not an instance of the first: a configuration that names one field of the
# infrared ranges must keep the infrared defaults of the others.
class IrRandomNoiseRanges(BaseModel):
    """Spec 3.5, IR RN (ControlFusion): Gaussian sigma 14, Poisson 70 to 90, salt and pepper.

    Deviation: ControlFusion writes salt 1e-7 and pepper 2e-4; in each of the 18 shipped training
    samples about 1e-3 of the dark pixels are white and 1e-3 of the bright ones black.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sigma_range_level: NonNegativeInterval = (14.0, 14.0)
    """Std of the Gaussian noise, in levels of 0 to 255."""
    peak_range: NonNegativeIntInterval = (70, 90)
    """Mean photon count of a white pixel; 0 turns the shot noise off."""
    salt_fraction: float = Field(default=1e-3, ge=0, le=1)
    """Share of pixels that become white."""
    pepper_fraction: float = Field(default=1e-3, ge=0, le=1)
    """Share of pixels that become black."""


class RandomNoiseParams(BaseModel):
    """`peak` is the mean photon count of a white pixel; 0 turns the shot noise off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma_level: float = Field(ge=0, allow_inf_nan=False)
    peak: int = Field(ge=0)
    salt_fraction: float = Field(ge=0, le=1)
    pepper_fraction: float = Field(ge=0, le=1)
    seed: int = Field(ge=0)


class GaussianNoiseRanges(BaseModel):
    """DRFusion spec 7: white Gaussian of 14 levels in both cameras; no shot noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sigma_range_level: NonNegativeInterval = (14.0, 14.0)
    """Std of the Gaussian noise, in levels of 0 to 255."""


class GaussianNoiseParams(BaseModel):
    """White noise of std `sigma_level`, independent in every pixel and channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma_level: float = Field(ge=0, allow_inf_nan=False)
    seed: int = Field(ge=0)


class StripeNoiseRanges(BaseModel):
    """Spec 3.5, IR SN, last column: Gaussian std U(5, 10) and column std U(5, 8.5)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sigma_range_level: NonNegativeInterval = (5.0, 10.0)
    """Std of the Gaussian noise, in levels of 0 to 255."""
    column_sigma_range_level: NonNegativeInterval = (5.0, 8.5)
    """Std of the offset of a column, in levels of 0 to 255."""


class StripeNoiseParams(BaseModel):
    """White noise of std `sigma_level` and one offset per column of std `column_sigma_level`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma_level: float = Field(ge=0, allow_inf_nan=False)
    column_sigma_level: float = Field(ge=0, allow_inf_nan=False)
    seed: int = Field(ge=0)


def draw_random_noise(
    ranges: ViRandomNoiseRanges | IrRandomNoiseRanges, rng: np.random.Generator
) -> RandomNoiseParams:
    """Draw the strengths and the seed of the field; both ends of `peak_range` can occur."""
    low, high = ranges.peak_range
    return RandomNoiseParams(
        sigma_level=draw_uniform(ranges.sigma_range_level, rng),
        peak=int(rng.integers(low, high, endpoint=True)),
        salt_fraction=ranges.salt_fraction,
        pepper_fraction=ranges.pepper_fraction,
        seed=draw_seed(rng),
    )


def draw_gaussian_noise(
    ranges: GaussianNoiseRanges, rng: np.random.Generator
) -> GaussianNoiseParams:
    """Draw the strength and the seed of the field."""
    return GaussianNoiseParams(
        sigma_level=draw_uniform(ranges.sigma_range_level, rng), seed=draw_seed(rng)
    )


def draw_stripe_noise(ranges: StripeNoiseRanges, rng: np.random.Generator) -> StripeNoiseParams:
    """Draw both strengths and the seed of the field."""
    return StripeNoiseParams(
        sigma_level=draw_uniform(ranges.sigma_range_level, rng),
        column_sigma_level=draw_uniform(ranges.column_sigma_range_level, rng),
        seed=draw_seed(rng),
    )


def apply_random_noise(image: np.ndarray, params: RandomNoiseParams) -> np.ndarray:
    """Spec 3.6, random noise: independent in every element, in the order of the scripts."""
    rng = _field_generator(params.seed)
    levels = image * np.float32(255)  # H W C
    if params.sigma_level > 0:
        levels = _truncate(levels + _gaussian(image.shape, params.sigma_level, rng))
    if params.peak > 0:
        levels = _shot_noise(levels, params.peak, rng)
    if params.salt_fraction > 0:
        levels[rng.random(image.shape[:2]) < params.salt_fraction] = 255
    if params.pepper_fraction > 0:
        levels[rng.random(image.shape[:2]) < params.pepper_fraction] = 0
    return levels / np.float32(255)


def apply_gaussian_noise(image: np.ndarray, params: GaussianNoiseParams) -> np.ndarray:
    """DRFusion spec 5, noise: y = x + n, clipped as a sensor does; the mean stays elsewhere."""
    rng = _field_generator(params.seed)
    field = _gaussian(image.shape, params.sigma_level, rng)  # H W C
    return np.clip(image + field / np.float32(255), 0, 1)


def apply_stripe_noise(image: np.ndarray, params: StripeNoiseParams) -> np.ndarray:
    """Spec 3.6, stripe noise: the offset of a column is the same in all its rows and channels."""
    rng = _field_generator(params.seed)
    height, width, _ = image.shape
    columns = _gaussian((1, width, 1), params.column_sigma_level, rng)  # 1 W 1
    grain = _gaussian((height, width, 1), params.sigma_level, rng)  # H W 1
    return np.clip(image + (grain + columns) / np.float32(255), 0, 1)


def estimate_noise_level(image: np.ndarray) -> float:
    """Std of the white noise in H×W×C float32 [0, 1], in levels of 0 to 255, mean over the channels.

    Immerkaer 1996: a mask that sees neither slopes nor edges along the axes; the median (Donoho 1995), so
    that texture counts little.  Where the sensor clipped, in black or white, its noise is not to be seen.
    """
    response = cv2.filter2D(image, cv2.CV_32F, _NOISE_MASK).reshape(image.shape)  # H W C
    unclipped = np.asarray(((image > 0) & (image < 1)).all(axis=2), np.uint8)
    seen = cv2.erode(unclipped, np.ones((3, 3), np.uint8)) > 0  # H W
    deviations = np.abs(response[seen] if seen.any() else response.reshape(-1, image.shape[2]))
    # 0.6745: the median of a standard normal variable's absolute value.
    return float(np.median(deviations, axis=0).mean() / 0.6745 * 255)


def _shot_noise(levels: np.ndarray, peak: int, rng: np.random.Generator) -> np.ndarray:
    counts = rng.poisson(levels * np.float32(peak / 255))
    # Multiply before dividing: whole levels then come out whole and survive the truncation.
    return _truncate((counts * 255 / peak).astype(np.float32))


def _truncate(levels: np.ndarray) -> np.ndarray:
    """The uint8 cast of the scripts, which lowers the mean by about half a level each time."""
    return np.floor(np.clip(levels, 0, 255, out=levels), out=levels)


def _gaussian(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)


def _field_generator(seed: int) -> np.random.Generator:
    """SFC64: the fastest bit generator of NumPy; fields are large."""
    return np.random.Generator(np.random.SFC64(seed))
