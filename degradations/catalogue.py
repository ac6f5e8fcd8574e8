"""The closed table of degradations: what exists, for which camera, how strong, and from where.

Adding one takes a kernel, a field in the ranges below and a line in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.blur import BlurParams, BlurRanges, apply_blur, draw_blur
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
    IrRandomNoiseRanges,
    RandomNoiseParams,
    StripeNoiseParams,
    StripeNoiseRanges,
    ViRandomNoiseRanges,
    apply_random_noise,
    apply_stripe_noise,
    draw_random_noise,
    draw_stripe_noise,
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


class ViRanges(BaseModel):
    """Strengths of every degradation of the visible camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blur: BlurRanges = BlurRanges()
    rain: RainRanges = RainRanges()
    random_noise: ViRandomNoiseRanges = ViRandomNoiseRanges()
    low_light: LowLightRanges = LowLightRanges()
    over_exposure: OverExposureRanges = OverExposureRanges()
    haze: HazeRanges = HazeRanges()


class IrRanges(BaseModel):
    """Strengths of every degradation of the infrared camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low_contrast: LowContrastRanges = LowContrastRanges()
    random_noise: IrRandomNoiseRanges = IrRandomNoiseRanges()
    stripe_noise: StripeNoiseRanges = StripeNoiseRanges()


@dataclass(frozen=True)
class Degradation:
    """One line of the table; `linear` means apply(a x + b y) = a apply(x) + b apply(y)."""

    name: str
    modality: Modality
    ranges: BaseModel
    params_type: type[BaseModel]
    draw: Callable[[Any, np.random.Generator], BaseModel]
    apply: Callable[[np.ndarray, Any], np.ndarray]
    linear: bool
    source: str


_VI = ViRanges()
_IR = IrRanges()

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
)
# fmt: on


def find(modality: Modality, name: str) -> Degradation:
    """The line of the table, or a ValueError that lists the names the camera knows."""
    for degradation in _TABLE:
        if degradation.modality == modality and degradation.name == name:
            return degradation
    known = ", ".join(names(modality))
    raise ValueError(f"no degradation {name!r} for modality {modality!r}; known: {known}")


def names(modality: Modality) -> tuple[str, ...]:
    """The degradations of one camera in the order of the table; "clean" is none of them."""
    return tuple(entry.name for entry in _TABLE if entry.modality == modality)
