"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by classical baselines,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what jobs.promote asks for. The same command again resumes an
interrupted evaluation from the scenes it had finished. --method NAME=DIR adds another method's fused
pictures of the clean pairs as a row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_recipe_arguments,
    add_work,
    options_again,
    run_command,
)
from jobs.placement import add_placement, placement_of
from jobs.recipes import EVALUATION


def _evaluate(arguments: argparse.Namespace) -> None:
    from infra.settings import read_settings
    from jobs.config import describe_settings, read_recipe, shrink_evaluation
    from jobs.console import print_facts, print_line

    recipe = read_recipe(EVALUATION, arguments, shrink_evaluation)
    if arguments.show:
        print_line("\n".join(describe_settings(recipe)))
        return
    from jobs.evaluate.report import REPORT
    from jobs.evaluate.run import evaluate

    evaluated = evaluate(
        recipe,
        read_settings(work=arguments.work, ray_address=arguments.address),
        model=arguments.model,
        scenes=arguments.scenes,
        split=arguments.split,
        dataset=arguments.dataset,
        # A trial run must not become what the gate judges a version by.
        tag=not arguments.smoke,
        folders=read_folders(arguments.method),
        placement=placement_of(arguments),
        local=arguments.local,
    )
    run = {"run": evaluated.run_id} if evaluated.run_id else {}
    print_facts(run | {"report": str(evaluated.folder / REPORT)})
    if arguments.model.startswith("models:/") and not arguments.smoke:
        name, _, number = evaluated.model.removeprefix("models:/").partition("/")
        where = options_again(arguments, "work")
        print_line(f"next: python -m jobs.promote {name} --version {number}{where}")


def read_folders(assignments: Sequence[str]) -> dict[str, Path]:
    """The folders of `--method`, by name. Raises ValueError for one that is not written NAME=DIR."""
    folders = {}
    for assignment in assignments:
        name, equals, folder = assignment.partition("=")
        if not equals or not name or name in folders:
            raise ValueError(f"--method {assignment}: write NAME=DIR, every name once")
        folders[name] = Path(folder)
    return folders


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--split", default="val", help="of the index (default: %(default)s)")
    parser.add_argument("--dataset", help="only this one of the data sets in the index")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder of another method's fused pictures of the clean pairs (repeatable)",
    )
    add_recipe_arguments(parser, EVALUATION, default="singles")
    parser.add_argument(
        "--local", action="store_true", help="a bundle's folder, in this process: no Ray, no MLflow"
    )
    add_address(parser)
    add_placement(parser)
    add_work(parser)


COMMAND = Command(
    "evaluate",
    __doc__,
    [
        "python -m jobs.evaluate models:/dspfusion@challenger --scenes roadscene",
        "python -m jobs.evaluate models:/dspfusion/3 --scenes msrs --split test --recipe all",
    ],
    Verb(_add_arguments, _evaluate),
)


def main() -> None:
    """Run the command."""
    run_command(COMMAND)


if __name__ == "__main__":
    main()
