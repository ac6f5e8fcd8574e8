"""Evaluation and promotion recipes."""

from jobs.config import EvaluateRecipe, PromoteRecipe
from pipelines.scenarios import SCENARIOS


def singles() -> EvaluateRecipe:
    """Clean and the six degradations of the `small` dataset recipe, one at a time."""
    return EvaluateRecipe(
        scenarios=(
            "clean",
            "vi_blur",
            "vi_low_light",
            "vi_random_noise",
            "ir_low_contrast",
            "ir_random_noise",
            "ir_stripe_noise",
        )
    )


def all_scenarios() -> EvaluateRecipe:
    """Every scenario there is, the mixed ones too."""
    return EvaluateRecipe(scenarios=tuple(scenario.name for scenario in SCENARIOS))


def default_gate() -> PromoteRecipe:
    """The gate with its default tolerance."""
    return PromoteRecipe()
