"""Evaluation and promotion recipes: `jobs.evaluate --recipe NAME`, `jobs.promote --recipe NAME`."""

from typing import get_args

from jobs.recipes.kinds import EvaluateRecipe, PromoteRecipe
from pipelines.evaluation.baselines import Baseline
from pipelines.promotion.gate import GateConfig
from pipelines.scenarios.table import CAPTURED, SCENARIOS, SEVERITIES

_SINGLES = (
    "clean",
    "vi_blur",
    "vi_low_light",
    "vi_random_noise",
    "ir_low_contrast",
    "ir_random_noise",
    "ir_stripe_noise",
)


def singles() -> EvaluateRecipe:
    """Clean and the six degradations of the `small` dataset recipe, one at a time."""
    return EvaluateRecipe(scenarios=_SINGLES)


def all_() -> EvaluateRecipe:
    """The whole matrix: single, mixed and composite, every baseline, the sampling-steps curve."""
    return EvaluateRecipe(
        scenarios=tuple(scenario.name for scenario in SCENARIOS),
        baselines=get_args(Baseline),
        steps=(2, 4, 6, 8, 10),
    )


def severities() -> EvaluateRecipe:
    """Clean and every single degradation, weak, medium and strong."""
    return EvaluateRecipe(scenarios=("clean", *(scenario.name for scenario in SEVERITIES)))


def captured() -> EvaluateRecipe:
    """Pictures that a camera took in bad light, as they are; what a scene has no files of is left out."""
    return EvaluateRecipe(scenarios=tuple(scenario.name for scenario in CAPTURED))


def default() -> PromoteRecipe:
    """The gate at its default margins, on at least 20 scenes of `val` in the scenarios of `singles`."""
    return PromoteRecipe(scenarios=_SINGLES)


def demo() -> PromoteRecipe:
    """The gate of `make demo`: eight rendered scenes, which cannot exclude a loss of less than 10 %."""
    return PromoteRecipe(scenarios=_SINGLES, gate=GateConfig(min_scenes=8, overall_margin=0.1))
