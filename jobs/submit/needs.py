"""What a command needs of a cluster, known before it is submitted: an error here is better than a job
that waits there without end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from jobs.command_line import parse_words
from jobs.commands import load_command, read_steps
from jobs.config import read_recipe
from jobs.evaluate.__main__ import read_evaluation, read_folders
from jobs.fuse.told import read_chains
from jobs.generate.__main__ import read_dataset
from jobs.recipes import PROMOTION
from jobs.train.__main__ import read_training
from pipelines.store.seeding import digest_of
from pipelines.training.config import TrainingConfig

_ONE_CPU = {"CPU": 1.0}


@dataclass(frozen=True)
class Needs:
    """Resources by Ray's names, and the configuration that a recipe and its `--set` came to."""

    resources: Mapping[str, float]
    config: str | None = None


def needs_of(words: Sequence[str]) -> Needs:
    """What one of our commands, `["train", "dspfusion_stage1_small", …]`, needs at least.

    The words are parsed and read by the command itself: a usage error ends the process with status 2.
    Raises ValueError when its recipe or one of its settings does not exist.
    """
    command, *rest = words
    arguments = parse_words(load_command(command), rest)
    match command:
        case "chain":
            return _most_of([needs_of(step) for step in read_steps(arguments.steps)])
        case "train":
            recipe = read_training(arguments)
            return Needs(_of_training(recipe, arguments), _name(arguments.recipe, recipe))
        case "generate" if not arguments.verb:
            config = read_dataset(arguments)
            on_ray = not (arguments.dry_run or arguments.show)
            return Needs(_ONE_CPU if on_ray else {}, _name(arguments.recipe, config))
        case "evaluate" if arguments.verb != "restoration":
            if not arguments.verb:
                read_folders(arguments.method)
                read_folders(arguments.restore, "--restore")
            evaluation = read_evaluation(arguments)
            return Needs({} if arguments.show else _ONE_CPU, _name(arguments.recipe, evaluation))
        case "promote" if not arguments.verb:
            gate = read_recipe(PROMOTION, arguments)
            return Needs({}, _name(arguments.recipe, gate))
        case "fuse":
            read_chains(arguments.degradation)
            return Needs({} if arguments.local else _ONE_CPU)
        case "serve":
            return Needs({"CPU": float(arguments.replicas[0])})
        case "demo":
            return Needs({"CPU": 2.0})
    return Needs({})


def _most_of(steps: Sequence[Needs]) -> Needs:
    """What a chain of steps needs, one after the other."""
    names = sorted({name for step in steps for name in step.resources})
    most = {name: max(step.resources.get(name, 0.0) for step in steps) for name in names}
    return Needs(most, ", ".join(step.config for step in steps if step.config) or None)


def _of_training(recipe: TrainingConfig, arguments: argparse.Namespace) -> dict[str, float]:
    if arguments.local or arguments.show:
        return {}
    num_workers = float(arguments.workers or recipe.num_workers)
    return {name: num_workers * n for name, n in recipe.resources_per_worker.items()}


def _name(recipe: str, config: BaseModel) -> str:
    """The recipe's name, and the digest of what its settings came to."""
    return f"{recipe}@{digest_of([config.model_dump(mode='json')])[:12]}"


def missing(needs: Needs, available: Mapping[str, float]) -> list[str]:
    """What the cluster lacks, in words."""
    return [
        f"{amount:g} {name} (it has {available.get(name, 0.0):g})"
        for name, amount in needs.resources.items()
        if available.get(name, 0.0) < amount
    ]
