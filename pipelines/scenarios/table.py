"""The closed table of evaluation scenarios: which degradations the two cameras suffer.

Single conditions and the mixed ones are those of DSPFusion (its spec, 3.1 and P.5: low light or rain
with low contrast or stripe noise), spelled in our names; `blur+random_noise` is ours: no published
mixture touches blur or infrared noise.  Strengths are the catalogue's defaults, as shipped.
`noise`, `blur` and `composite` are DRFusion's (its spec, 7). `NAME@weak`, `@medium` and `@strong`
are the single ones at fixed strengths instead of drawn ones. `captured_NAME` draws nothing: the scene
has the degraded picture as a file, as the camera took it.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from degradations.catalogue import IrRanges, Modality, ViRanges
from degradations.noise import GaussianNoiseRanges
from degradations.operators import is_linear
from degradations.own import OwnTransforms, check_names
from pipelines.store.seeding import digest_of

Severity = Literal["weak", "medium", "strong"]


class Scenario(BaseModel):
    """Degradations of each camera, in the order in which they are applied; empty means clean.

    Without a severity their strengths are drawn from the ranges, a scene its own. `own` holds
    degradations that are not the catalogue's. A captured one is a native file of the scene instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    vi: tuple[str, ...] = ()
    ir: tuple[str, ...] = ()
    severity: Severity | None = None
    captured: bool = False
    vi_ranges: ViRanges = ViRanges()
    ir_ranges: IrRanges = IrRanges()
    own: OwnTransforms = OwnTransforms()

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_names("vi", self.vi, self.own)
        check_names("ir", self.ir, self.own)
        if self.captured and (self.severity or not (self.vi or self.ir)):
            raise ValueError(
                f"captured scenario {self.name!r}: name what a camera suffers, and no severity"
            )
        return self

    @property
    def is_linear(self) -> bool:
        """Whether both cameras suffer linear operators only; of a captured one nobody knows."""
        return not self.captured and is_linear("vi", self.vi) and is_linear("ir", self.ir)

    @property
    def natives(self) -> tuple[str, ...]:
        """The native files that a scene has to have, "vi_low_light" and so on; none unless captured."""
        cameras = (("vi", self.vi), ("ir", self.ir)) if self.captured else ()
        return tuple(f"{camera}_{'+'.join(names)}" for camera, names in cameras if names)


# Measured on the authors' composite files (DRFusion spec, 7); alone their noise is 14 levels.
_COMPOSITE_NOISE = GaussianNoiseRanges(sigma_range_level=(8.0, 8.0))
CLEAN_SCENARIO = Scenario(name="clean")

SCENARIOS: tuple[Scenario, ...] = (
    CLEAN_SCENARIO,
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
    Scenario(name="rain+low_contrast", vi=("rain",), ir=("low_contrast",)),
    Scenario(name="rain+stripe_noise", vi=("rain",), ir=("stripe_noise",)),
    Scenario(name="blur+random_noise", vi=("blur",), ir=("random_noise",)),
    Scenario(name="noise", vi=("gaussian_noise",), ir=("gaussian_noise",)),
    Scenario(name="blur", vi=("gaussian_blur",), ir=("gaussian_blur",)),
    Scenario(
        name="composite",
        vi=("gaussian_blur", "gaussian_noise"),
        ir=("gaussian_blur", "gaussian_noise", "low_resolution"),
        vi_ranges=ViRanges(gaussian_noise=_COMPOSITE_NOISE),
        ir_ranges=IrRanges(gaussian_noise=_COMPOSITE_NOISE),
    ),
)

# Weak, medium and strong of every field that says how strong: the middles of the interval's thirds;
# half, once and one and a half times where one value is published.
# fmt: off
_STRENGTHS: dict[Modality, dict[str, dict[str, tuple[float, float, float]]]] = {
    "vi": {
        "blur": {"sigma_range_px": (0.83, 2.1, 3.37)},
        "rain": {"alpha": (0.95, 0.9, 0.85), "drop_fraction": (2.5 / 256, 5 / 256, 7.5 / 256)},
        "low_light": {"gain_range": (0.7, 0.6, 0.5), "gamma_range": (1.47, 1.6, 1.73)},
        "over_exposure": {"gain_range": (1.17, 1.3, 1.43), "gamma_range": (0.75, 0.65, 0.55)},
        "random_noise": {"sigma_range_level": (5.0, 10.0, 15.0)},
        "haze": {"beta_range": (0.06, 0.12, 0.18)},
    },
    "ir": {
        "low_contrast": {"slope_range": (0.57, 0.5, 0.43), "offset_range_level": (83, 90, 97)},
        "random_noise": {
            "sigma_range_level": (7.0, 14.0, 21.0),
            "salt_fraction": (5e-4, 1e-3, 1.5e-3),
            "pepper_fraction": (5e-4, 1e-3, 1.5e-3),
        },
        "stripe_noise": {
            "sigma_range_level": (5.83, 7.5, 9.17),
            "column_sigma_range_level": (5.58, 6.75, 7.92),
        },
    },
}
# fmt: on
SEVERITIES: tuple[Scenario, ...] = tuple(
    scenario.model_copy(update={"name": f"{scenario.name}@{severity}", "severity": severity})
    for scenario in SCENARIOS
    if len(scenario.vi) + len(scenario.ir) == 1
    for severity in get_args(Severity)
)
# The authors' files that a camera took, and no program made (their LL, OE and LC). The enhanced pair
# is what they are measured against.
CAPTURED: tuple[Scenario, ...] = tuple(
    scenario.model_copy(update={"name": f"captured_{scenario.name}", "captured": True})
    for scenario in (
        Scenario(name="vi_low_light", vi=("low_light",)),
        Scenario(name="vi_over_exposure", vi=("over_exposure",)),
        Scenario(name="ir_low_contrast", ir=("low_contrast",)),
        Scenario(name="low_light+low_contrast", vi=("low_light",), ir=("low_contrast",)),
        Scenario(name="over_exposure+low_contrast", vi=("over_exposure",), ir=("low_contrast",)),
    )
)
# Every scenario that has a name, in the order of tables.
TABLE: tuple[Scenario, ...] = (*SCENARIOS, *SEVERITIES, *CAPTURED)


def find_scenario(name: str | Scenario) -> Scenario:
    """Return the scenario of that name, or the given one. Raises ValueError that lists the known ones."""
    if isinstance(name, Scenario):
        return name
    for scenario in TABLE:
        if scenario.name == name:
            return scenario
    known = ", ".join(scenario.name for scenario in (*SCENARIOS, *CAPTURED))
    raise ValueError(f"no scenario {name!r}; known: {known}, and single ones with @weak and so on")


def protocol_of(scenario: Scenario, protocol: str) -> str:
    """The protocol of a scenario's rows: of one that is not the table's, with its definition.

    Two evaluations may give one name to scenarios of their own that differ; such rows do not compare.
    """
    if scenario in TABLE:
        return protocol
    return digest_of([protocol, *definition_of(scenario)])[:16]


def definition_of(scenario: Scenario) -> list[Any]:
    """All that decides what a scenario does, as JSON."""
    return [scenario.model_dump(mode="json"), scenario.own.address()]


def ranges_of(scenario: Scenario, modality: Modality) -> ViRanges | IrRanges:
    """What a camera's strengths are drawn from: with a severity, ranges of one value each."""
    if scenario.severity:
        return _fixed(modality, scenario.severity)
    return scenario.vi_ranges if modality == "vi" else scenario.ir_ranges


def _fixed(modality: Modality, severity: Severity) -> ViRanges | IrRanges:
    """The catalogue's ranges with every strength at one value."""
    ranges: ViRanges | IrRanges = ViRanges() if modality == "vi" else IrRanges()
    index = get_args(Severity).index(severity)
    tree = ranges.model_dump()
    for name, fields in _STRENGTHS[modality].items():
        for field, strengths in fields.items():
            value = strengths[index]
            tree[name][field] = (value, value) if "_range" in field else value
    return type(ranges).model_validate(tree)
