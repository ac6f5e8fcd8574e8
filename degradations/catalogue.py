"""The closed table of degradations: what exists, for which camera, how strong, and from where.

Adding one takes a kernel, a field in the ranges below and a line in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.blur import (
    BlurParams,
    BlurRanges,
    GaussianBlurRanges,
    apply_blur,
    draw_blur,
)
from degradations.exposure import (
    ExposureParams,
    LowContrastParams,
    LowContrastRanges,
    LowLightRanges,
    OverExposureRanges,
    apply_exposure,
    apply_low_contrast,
    draw_exposure,
    draw_low_contrast,
)
from degradations.noise import (
    GaussianNoiseParams,
    GaussianNoiseRanges,
    IrRandomNoiseRanges,
    RandomNoiseParams,
    StripeNoiseParams,
    StripeNoiseRanges,
    ViRandomNoiseRanges,
    apply_gaussian_noise,
    apply_random_noise,
    apply_stripe_noise,
    draw_gaussian_noise,
    draw_random_noise,
    draw_stripe_noise,
)
from degradations.resolution import (
    LowResolutionParams,
    LowResolutionRanges,
    apply_low_resolution,
    draw_low_resolution,
)
from degradations.weather import (
    HazeParams,
    HazeRanges,
    RainParams,
    RainRanges,
    apply_haze,
    apply_rain,
    draw_haze,
    draw_rain,
)

Modality = Literal["vi", "ir"]
# Whose experiments a degradation belongs to. What a recipe gets without naming anything is
# DSPFusion's; the others it names.
Suite = Literal["dspfusion", "drfusion"]
# The name of a picture that suffers nothing; no line of the table has it.
CLEAN = "clean"


class ViRanges(BaseModel):
    """Strengths of every degradation of the visible camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blur: BlurRanges = BlurRanges()
    rain: RainRanges = RainRanges()
    random_noise: ViRandomNoiseRanges = ViRandomNoiseRanges()
    low_light: LowLightRanges = LowLightRanges()
    over_exposure: OverExposureRanges = OverExposureRanges()
    haze: HazeRanges = HazeRanges()
    gaussian_blur: GaussianBlurRanges = GaussianBlurRanges()
    gaussian_noise: GaussianNoiseRanges = GaussianNoiseRanges()
    low_resolution: LowResolutionRanges = LowResolutionRanges()


class IrRanges(BaseModel):
    """Strengths of every degradation of the infrared camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low_contrast: LowContrastRanges = LowContrastRanges()
    random_noise: IrRandomNoiseRanges = IrRandomNoiseRanges()
    stripe_noise: StripeNoiseRanges = StripeNoiseRanges()
    gaussian_blur: GaussianBlurRanges = GaussianBlurRanges()
    gaussian_noise: GaussianNoiseRanges = GaussianNoiseRanges()
    low_resolution: LowResolutionRanges = LowResolutionRanges()


@dataclass(frozen=True)
class Degradation:
    """One line of the table.

    `linear` means y = A x + n until it is clipped: A linear, n white Gaussian noise or none, both
    known from the parameters.  DRFusion inverts those (its spec, section 5).
    """

    name: str
    modality: Modality
    ranges: BaseModel
    params_type: type[BaseModel]
    draw: Callable[[Any, np.random.Generator], BaseModel]
    apply: Callable[[np.ndarray, Any], np.ndarray]
    linear: bool
    source: str
    suite: Suite = "dspfusion"
    # Part of the address of what is made with it: raise it when the same parameters or the same draw
    # come to mean other pixels. tests/degradations/test_versions.py holds them.
    version: int = 1


_VI = ViRanges()
_IR = IrRanges()
_LINEAR_OF: tuple[tuple[Modality, ViRanges | IrRanges], ...] = (("vi", _VI), ("ir", _IR))

# fmt: off
_TABLE: tuple[Degradation, ...] = (
    Degradation("blur", "vi", _VI.blur, BlurParams, draw_blur, apply_blur,
                linear=True, source="spec 3.5, VI Blur: DSPFusion shipped samples"),
    Degradation("rain", "vi", _VI.rain, RainParams, draw_rain, apply_rain,
                linear=False, source="spec 3.6, rain: EMS"),
    Degradation("random_noise", "vi", _VI.random_noise, RandomNoiseParams,
                draw_random_noise, apply_random_noise,
                linear=False, source="spec 3.6, random noise: EMS"),
    Degradation("low_light", "vi", _VI.low_light, ExposureParams, draw_exposure, apply_exposure,
                linear=False, source="spec 3.5, VI LL: gain and gamma fitted to captured files"),
    Degradation("over_exposure", "vi", _VI.over_exposure, ExposureParams,
                draw_exposure, apply_exposure,
                linear=False, source="spec 3.5, VI OE: gain, gamma and clip"),
    Degradation("haze", "vi", _VI.haze, HazeParams, draw_haze, apply_haze,
                linear=False, source="spec 3.6, haze: EMS"),
    Degradation("low_contrast", "ir", _IR.low_contrast, LowContrastParams,
                draw_low_contrast, apply_low_contrast,
                linear=False, source="spec 3.6, low contrast: ControlFusion"),
    Degradation("random_noise", "ir", _IR.random_noise, RandomNoiseParams,
                draw_random_noise, apply_random_noise,
                linear=False, source="spec 3.6, random noise: ControlFusion, salt as shipped"),
    Degradation("stripe_noise", "ir", _IR.stripe_noise, StripeNoiseParams,
                draw_stripe_noise, apply_stripe_noise,
                linear=False, source="spec 3.5, IR SN: DSPFusion shipped samples"),
    *(
        line
        for modality, ranges in _LINEAR_OF
        for line in (
            Degradation("gaussian_blur", modality, ranges.gaussian_blur, BlurParams,
                        draw_blur, apply_blur, linear=True, suite="drfusion",
                        source="DRFusion spec 5 and 7, blur"),
            Degradation("gaussian_noise", modality, ranges.gaussian_noise, GaussianNoiseParams,
                        draw_gaussian_noise, apply_gaussian_noise, linear=True, suite="drfusion",
                        source="DRFusion spec 5 and 7, noise"),
            Degradation("low_resolution", modality, ranges.low_resolution, LowResolutionParams,
                        draw_low_resolution, apply_low_resolution, linear=True, suite="drfusion",
                        source="DRFusion spec 5 and 7, composite"),
        )
    ),
)
# fmt: on


def find(modality: Modality, name: str) -> Degradation:
    """The line of the table, or a ValueError that lists the names the camera knows."""
    for degradation in _TABLE:
        if degradation.modality == modality and degradation.name == name:
            return degradation
    known = ", ".join((*names(modality), *names(modality, suite="drfusion")))
    raise ValueError(f"no degradation {name!r} for modality {modality!r}; known: {known}")


def is_known(modality: Modality, name: str) -> bool:
    """Whether the table has a line for this camera and name."""
    return any(entry.modality == modality and entry.name == name for entry in _TABLE)


def names(modality: Modality, *, suite: Suite = "dspfusion") -> tuple[str, ...]:
    """The degradations of one camera and suite in the order of the table; "clean" is none of them."""
    return tuple(
        entry.name for entry in _TABLE if entry.modality == modality and entry.suite == suite
    )
