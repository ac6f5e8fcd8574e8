"""The closed table of evaluation scenarios: which degradations the two cameras suffer.

Single conditions and the mixed ones are those of the DSPFusion test options (spec 3.1), spelled in
our names; `blur+random_noise` is ours: no published mixture touches blur or infrared noise.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.catalogue import Modality
from degradations.chain import apply_chain, draw_chain
from pipelines.seeding import rng_at


class Scenario(BaseModel):
    """Degradations of each camera, in the order in which they are applied; empty means clean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    vi: tuple[str, ...] = ()
    ir: tuple[str, ...] = ()


CLEAN = Scenario(name="clean")

SCENARIOS: tuple[Scenario, ...] = (
    CLEAN,
    Scenario(name="vi_blur", vi=("blur",)),
    Scenario(name="vi_rain", vi=("rain",)),
    Scenario(name="vi_low_light", vi=("low_light",)),
    Scenario(name="vi_over_exposure", vi=("over_exposure",)),
    Scenario(name="vi_random_noise", vi=("random_noise",)),
    Scenario(name="vi_haze", vi=("haze",)),
    Scenario(name="ir_low_contrast", ir=("low_contrast",)),
    Scenario(name="ir_random_noise", ir=("random_noise",)),
    Scenario(name="ir_stripe_noise", ir=("stripe_noise",)),
    Scenario(name="low_light+low_contrast", vi=("low_light",), ir=("low_contrast",)),
    Scenario(name="low_light+stripe_noise", vi=("low_light",), ir=("stripe_noise",)),
    Scenario(name="rain+stripe_noise", vi=("rain",), ir=("stripe_noise",)),
    Scenario(name="blur+random_noise", vi=("blur",), ir=("random_noise",)),
)


def find_scenario(name: str) -> Scenario:
    """Return the scenario of that name. Raises ValueError that lists the known ones."""
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    known = ", ".join(scenario.name for scenario in SCENARIOS)
    raise ValueError(f"no scenario {name!r}; known: {known}")


def degrade(
    vi: np.ndarray, ir: np.ndarray, scenario: Scenario, *, seed: int, scene_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade a pair (uint8, VI H×W×3 and IR H×W×1); a clean camera comes back as an equal copy.

    The pixels depend on (seed, scene_key, scenario, camera) alone: neither order, nor worker, nor
    what befalls the other camera changes them.
    """
    address = (scene_key, scenario.name)
    vi_lq = _degrade_one(vi, "vi", scenario.vi, rng_at(seed, *address, "vi"))
    ir_lq = _degrade_one(ir, "ir", scenario.ir, rng_at(seed, *address, "ir"))
    return vi_lq, ir_lq


def _degrade_one(
    image: np.ndarray, modality: Modality, names: tuple[str, ...], rng: np.random.Generator
) -> np.ndarray:
    chain = draw_chain(modality, names, rng)
    degraded = apply_chain(image.astype(np.float32) / 255, modality, chain)
    return np.rint(degraded * 255).astype(np.uint8)  # H W C
