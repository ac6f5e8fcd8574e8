"""Recipes as commands see them: complete typed configurations, `--set a.b=c`, `--smoke`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models import system_of
from pipelines.evaluation.baselines import Baseline
from pipelines.promotion.gate import GateConfig
from pipelines.store.names import nearest
from pipelines.training.config import TrainingConfig

_Config = TypeVar("_Config", bound=BaseModel)


class EvaluateRecipe(BaseModel):
    """An evaluation: under which scenarios, on how many scenes (None for all), with which seed.

    The average is always among the baselines: a first version is judged against it. `steps` are
    other numbers of sampling steps to try on the example scenes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: tuple[str, ...]
    baselines: tuple[Baseline, ...] = ("average", "maximum")
    steps: tuple[Annotated[int, Field(ge=2)], ...] = ()
    num_scenes: int | None = Field(default=None, ge=1)
    num_examples: int = Field(default=3, ge=0)
    seed: int = 0

    @field_validator("baselines")
    @classmethod
    def _has_the_average(cls, names: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
        if "average" not in names or len(set(names)) != len(names):
            raise ValueError(f"{list(names)}: name the average, and each baseline once")
        return names


class PromoteRecipe(BaseModel):
    """What the gate asks of a challenger.

    `parity_tolerance` bounds the difference, in [0, 1], of the program it serves from the module that
    was evaluated: a quarter of the smallest step of an 8-bit picture would be 1e-3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: GateConfig = GateConfig()
    parity_tolerance: float = Field(default=1e-4, gt=0, lt=1)


def add_recipe_arguments(
    parser: argparse.ArgumentParser,
    recipes: Mapping[str, Callable[[], BaseModel]],
    *,
    default: str | None = None,
) -> None:
    """Add RECIPE, `--set` and `--smoke`."""
    names = ", ".join(recipes)
    if default:
        parser.add_argument("--recipe", default=default, metavar="RECIPE", help=f"one of: {names}")
    else:
        parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {names}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting, for example optim.num_steps=500 (repeatable)",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="shrink everything to a try-out of seconds"
    )


def find_recipe(recipes: Mapping[str, Callable[[], _Config]], name: str) -> _Config:
    """Call the recipe of that name. Raises ValueError that lists the others."""
    if name not in recipes:
        raise ValueError(
            f"no recipe {name!r}{nearest(name, recipes)}; there are: {', '.join(recipes)}"
        )
    return recipes[name]()


def override(config: _Config, assignments: Sequence[str]) -> _Config:
    """Apply `a.b=value` assignments (values are JSON, or plain text) and validate the whole again.

    Raises ValueError with the path of a key that does not exist, and the nearest that does.
    """
    if not assignments:
        return config
    tree = config.model_dump(mode="json")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write KEY=VALUE")
        _assign(tree, path, _parse_value(text))
    return type(config).model_validate(tree)


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    for depth, key in enumerate([*parents, last]):
        if not isinstance(node, dict) or key not in node:
            known = node if isinstance(node, dict) else {}
            above = "".join(f"{parent}." for parent in parents[:depth])
            raise ValueError(
                f"--set {path}: no such key {'.'.join([*parents, last][: depth + 1])!r}"
                f"{nearest(key, known, prefix=above)}; there are: {', '.join(known) or 'none below it'}"
            )
        if depth < len(parents):
            node = node[key]
    node[last] = value


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def shrink_training(config: TrainingConfig) -> TrainingConfig:
    """`--smoke`: networks of tiny sizes, four steps, at most two workers on CPUs, the same code.

    What the networks are made of, the losses and the optimiser stay the recipe's.
    """
    system, optim = system_of(config.objective), config.optim
    crop_px = -(-32 // system.multiple_px) * system.multiple_px
    steps = {"num_steps": 4, "batch_size": 2, "log_every": 2, "checkpoint_every": 2}
    sizes = {
        "crop_px": crop_px,
        "late_crop_px": optim.late_crop_px and crop_px + system.multiple_px,
        "late_batch_size": optim.late_batch_size and 1,
    }
    changes = {
        "objective": system.shrink(config.objective),
        "optim": optim.model_copy(update=steps | sizes),
        "num_workers": min(config.num_workers, 2),
        "use_gpu": False,
        "preview_every": config.preview_every and 2,
        # A try-out is not registered: it would take the challenger's place.
        "register_as": None,
    }
    return config.model_copy(update=changes)


def shrink_evaluation(recipe: EvaluateRecipe) -> EvaluateRecipe:
    """`--smoke`: two scenes under the first two scenarios, against average and maximum."""
    return recipe.model_copy(
        update={
            "scenarios": recipe.scenarios[:2],
            "baselines": ("average", "maximum"),
            "steps": recipe.steps[:1],
            "num_scenes": 2,
            "num_examples": 1,
        }
    )
