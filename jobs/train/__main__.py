"""python -m jobs.train RECIPE [--set …]: train a stage with Ray Train, tracked in MLflow.

The same command again resumes an unfinished run from its last checkpoint, and reports a finished one
without training. A second one is refused while the first still runs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_recipe_arguments,
    add_work,
    run_command,
)
from jobs.placement import add_device
from jobs.recipes import TRAINING

if TYPE_CHECKING:
    from jobs.train.run import Trained
    from pipelines.training.config import TrainingConfig


def _train(arguments: argparse.Namespace) -> None:
    from infra.settings import read_settings
    from jobs.config import describe_settings, read_recipe, shrink_training
    from jobs.console import print_line

    config = read_recipe(TRAINING, arguments, shrink_training)
    if arguments.show:
        print_line("\n".join(describe_settings(config)))
        return
    if arguments.compile:
        config = config.model_copy(update={"compiled": True})
    if arguments.device != "auto":
        config = config.model_copy(update={"use_gpu": arguments.device == "cuda"})
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    # It becomes part of a folder's name.
    name = arguments.recipe.replace(":", ".")
    if arguments.local:
        from jobs.train.local import train_local

        if arguments.workers:
            raise ValueError("--local is one process; leave --workers out")
        checkpoint = train_local(config, settings, name=name, device=arguments.device)
        print_line(f"checkpoint: {checkpoint}")
        return
    from jobs.train.run import train

    trained = train(config, settings, name=name, num_workers=arguments.workers)
    _print_next(arguments, config, trained)


def _print_next(arguments: argparse.Namespace, config: TrainingConfig, trained: Trained) -> None:
    from jobs.console import print_facts, print_line

    following = recipe_after(arguments.recipe)
    later = "a recipe that follows registers" if following else "by its recipe"
    why_not = "a trial run" if arguments.smoke else later
    print_facts({"run": trained.run_id, "model": trained.model or f"not registered ({why_not})"})
    if trained.model:
        print_line(f"next: python -m jobs.evaluate {trained.model} --scenes INDEX")
    elif following:
        source = f"--set dataset={config.dataset} --set init_from=runs:/{trained.run_id}"
        print_line(f"next: python -m jobs.train {following}{' --smoke' * arguments.smoke} {source}")
    elif arguments.smoke:
        print_line("next: the same command without --smoke")


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
        type=int,
        metavar="N",
        help="share the recipe's steps among N workers, also when resuming (default: the recipe's)",
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
    Verb(_add_arguments, _train),
)


def main() -> None:
    """Run the command."""
    run_command(COMMAND)


if __name__ == "__main__":
    main()
