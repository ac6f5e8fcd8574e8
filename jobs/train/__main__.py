"""python -m jobs.train RECIPE [--set …]: train a stage with Ray Train, tracked in MLflow.

The same command again resumes an unfinished run from its last checkpoint, and reports a finished one
without training. A second one is refused while the first still runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_recipe_arguments,
    add_work,
    options_again,
    settings_of,
    whole_number,
)
from jobs.placement import add_device
from jobs.recipes import TRAINING

if TYPE_CHECKING:
    from infra.settings import Settings
    from jobs.train.run import Trained
    from pipelines.training.config import TrainingConfig


def read_training(arguments: argparse.Namespace) -> TrainingConfig:
    """The training that a command line names. Raises ValueError for options that exclude each other."""
    from jobs.config import read_recipe, shrink_training
    from pipelines.training.config import share_of_step

    config = read_recipe(TRAINING, arguments, shrink_training)
    if arguments.local and arguments.workers:
        raise ValueError("--local is one process; leave --workers out")
    if arguments.local and arguments.again:
        raise ValueError("--local keeps one training of a configuration; delete its folder instead")
    if arguments.workers:
        share_of_step(config.optim, config.num_workers, arguments.workers)
    changes: dict[str, bool] = {"compiled": True} if arguments.compile else {}
    if arguments.device != "auto":
        changes["use_gpu"] = arguments.device == "cuda"
    return config.model_copy(update=changes)


def _train(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line

    config = read_training(arguments)
    settings = settings_of(arguments)
    # It becomes part of a folder's name.
    name = arguments.recipe.replace(":", ".")
    if arguments.local:
        from jobs.train.local import train_local

        checkpoint = train_local(config, settings, name=name, device=arguments.device)
        print_line(f"checkpoint: {checkpoint}")
        return
    from jobs.train.run import train

    trained = train(
        config, settings, name=name, num_workers=arguments.workers, again=arguments.again
    )
    _print_next(arguments, settings, trained)


def _print_next(arguments: argparse.Namespace, settings: Settings, trained: Trained) -> None:
    from jobs.console import print_facts, print_line

    following = recipe_after(arguments.recipe)
    later = "a recipe that follows registers" if following else "by its recipe"
    why_not = "a trial run" if arguments.smoke else later
    print_facts({"run": trained.run_id, "model": trained.model or f"not registered ({why_not})"})
    where = options_again(arguments, "address", "work")
    if trained.model:
        scenes = _unseen_scenes(trained.dataset, settings)
        print_line(f"next: python -m jobs.evaluate {trained.model} {scenes}{where}")
    elif following:
        changes = {"dataset": trained.dataset, "init_from": f"runs:/{trained.run_id}"}
        words = [f"--set {key}={value}" for key, value in changes.items()]
        words += [f"--set {shlex.quote(each)}" for each in _settings_of(following, arguments)]
        options = " --smoke" * arguments.smoke + " --compile" * arguments.compile
        where = options_again(arguments, "workers") + where
        print_line(f"next: python -m jobs.train {following}{options} {' '.join(words)}{where}")
    elif arguments.smoke:
        words = [word for word in sys.argv[1:] if word != "--smoke"]
        print_line(f"next: python -m jobs.train {shlex.join(words)}")


def _unseen_scenes(dataset: str, settings: Settings) -> str:
    """The options of jobs.evaluate for the scenes that a dataset version never saw."""
    from jobs.locations import open_datasets
    from jobs.train.inputs import find_sources
    from pipelines.datasets.versions import find_version

    found = find_sources(find_version(open_datasets(settings), dataset), settings)
    return f"--scenes {found.index or 'INDEX'} --split {found.unseen_split or 'SPLIT'}"


def _settings_of(following: str, arguments: argparse.Namespace) -> list[str]:
    """The settings that were given and that the following recipe has, too: those of the networks, say."""
    from jobs.config import has_setting

    recipe = TRAINING[following]()
    given = [each for each in arguments.overrides if has_setting(recipe, each)]
    own = ("dataset", "init_from", "register_as")
    return [each for each in given if each.partition("=")[0].strip() not in own]


def recipe_after(name: str) -> str | None:
    """The recipe that takes its initial weights from the runs of this one, if there is one."""
    second = name.replace("_stage1_", "_stage2_")
    found = [f"{second}_prior", second] if second != name else [name.removesuffix("_prior")]
    return next((each for each in found if each in TRAINING and each != name), None)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, TRAINING)
    parser.add_argument(
        "--local", action="store_true", help="in this process, without Ray and MLflow"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, 4096),
        metavar="N",
        help="share the recipe's steps among N workers, also when resuming (default: the recipe's)",
    )
    parser.add_argument(
        "--again", action="store_true", help="train anew what is trained already, in a new run"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks first")
    add_device(parser, auto="auto is what the recipe says, and with --local a GPU if there is one")
    add_address(parser)
    add_work(parser)


COMMAND = Command(
    "train",
    __doc__,
    [
        "python -m jobs.train dspfusion_stage1_small --set dataset=roadscene-small",
        "python -m jobs.train dspfusion_stage2_small --set dataset=roadscene-small "
        "--set init_from=runs:/ID",
    ],
    Verb(_add_arguments, _train, read_training),
)


if __name__ == "__main__":
    COMMAND.run()
