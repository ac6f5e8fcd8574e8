"""What a command will ask of a cluster, known before it is submitted: a job that waits there for ever
is worse than a line here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from jobs.config import add_recipe_arguments, find_recipe, override
from jobs.recipes import DATASETS, EVALUATION, TRAINING
from pipelines.store.seeding import digest_of
from pipelines.training.config import TrainingConfig

_Recipes = Mapping[str, Callable[[], BaseModel]]
# Their first words are verbs, which work on what exists and need no recipe.
_VERBS = ("verify", "inspect", "gc")
# Options with a value, which must not be taken for the recipe.
_VALUED = ("--scenes", "--address", "--work", "--split", "--method", "--cluster", "--price")
_ON_RAY = ("fuse", "evaluate", "generate")


@dataclass(frozen=True)
class Needs:
    """Resources by Ray's names, and the configuration that a recipe and its `--set` came to."""

    resources: Mapping[str, float]
    config: str | None = None


def needs_of(words: Sequence[str]) -> Needs:
    """What one of our commands, `["train", "dspfusion_stage1_small", …]`, needs at least.

    Raises ValueError when its recipe or one of its settings does not exist.
    """
    command, *rest = words
    resources = {"CPU": 1.0} if command in _ON_RAY and "--local" not in rest else {}
    match command:
        case "train":
            recipe, config = _recipe("train", TRAINING, rest)
            assert isinstance(recipe, TrainingConfig)
            if "--local" not in rest:
                resources = {"CPU": float(recipe.num_workers)}
                if recipe.use_gpu:
                    resources["GPU"] = float(recipe.num_workers)
            return Needs(resources, config)
        case "generate" if rest[:1] and rest[0] in _VERBS:
            return Needs({})
        case "generate":
            return Needs(resources, _recipe("generate", DATASETS, rest)[1])
        case "evaluate":
            return Needs(resources, _recipe("evaluate", EVALUATION, rest, default="singles")[1])
        case "demo":
            return Needs({"CPU": 2.0})
    return Needs(resources)


def missing(needs: Needs, available: Mapping[str, float]) -> list[str]:
    """What the cluster lacks, in words."""
    return [
        f"{amount:g} {name} (it has {available.get(name, 0.0):g})"
        for name, amount in needs.resources.items()
        if available.get(name, 0.0) < amount
    ]


def _recipe(
    command: str, recipes: _Recipes, rest: Sequence[str], *, default: str | None = None
) -> tuple[BaseModel, str]:
    """The recipe with its settings, and a name for the two: recipe and digest."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{command}", add_help=False)
    add_recipe_arguments(parser, recipes, default=default)
    for option in _VALUED:
        parser.add_argument(option, action="append")
    arguments, _ = parser.parse_known_args(list(rest))
    config = override(find_recipe(recipes, arguments.recipe), arguments.overrides)
    return config, f"{arguments.recipe}@{digest_of([config.model_dump(mode='json')])[:12]}"
