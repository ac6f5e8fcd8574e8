"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by classical baselines,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what jobs.promote asks for. The same command again resumes an
interrupted evaluation from the scenes and scenarios it had finished.

export writes the degraded pairs as PNG, with a manifest. --method NAME=DIR takes another method's fused
pictures of them (DIR/SCENARIO/SCENE.png), --restore NAME=DIR restored ones (DIR/SCENARIO/vi/SCENE.png and
ir/), which the baselines then fuse; both folders get a copy of the manifest. Fused pictures of the clean
pairs alone may lie in DIR itself.

restoration measures what a system that takes prompts restores of single pictures, by what they suffer:
under their own prompt, another's, none, and the one that it finds out.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
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
from jobs.placement import add_placement, placement_of
from jobs.recipes import DATASETS, EVALUATION

if TYPE_CHECKING:
    from jobs.evaluate.scenes import SceneChoice
    from jobs.recipes.kinds import EvaluateRecipe


def read_evaluation(arguments: argparse.Namespace) -> EvaluateRecipe:
    """The evaluation that a command line names."""
    from jobs.config import read_recipe, shrink_evaluation

    return read_recipe(EVALUATION, arguments, shrink_evaluation)


def _evaluate(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts, print_line
    from jobs.evaluate.report import REPORT
    from jobs.evaluate.run import evaluate
    from jobs.evaluate.subject import Asked

    recipe = read_evaluation(arguments)
    asked = Asked(
        arguments.model,
        _scenes_of(arguments),
        folders=read_folders(arguments.method),
        restored=read_folders(arguments.restore, "--restore"),
        placement=placement_of(arguments, local=arguments.local),
        options=_options(arguments),
    )
    settings = settings_of(arguments)
    # A trial run must not become what the gate judges a version by.
    evaluated = evaluate(recipe, settings, asked, tag=not arguments.smoke)
    run = {"run": evaluated.run_id} if evaluated.run_id else {}
    print_facts(run | {"report": str(evaluated.folder / REPORT)})
    if arguments.model.startswith("models:/") and not arguments.smoke:
        name, _, number = evaluated.model.removeprefix("models:/").partition("/")
        where = options_again(arguments, "work")
        print_line(f"next: python -m jobs.promote {name} --version {number}{where}")


def _options(arguments: argparse.Namespace) -> str:
    """What the command line asks for besides model and scenes, for a command that is printed."""
    words = ["--recipe", arguments.recipe]
    for option in ("method", "restore"):
        words += [word for value in getattr(arguments, option) for word in (f"--{option}", value)]
    words += [word for value in arguments.overrides for word in ("--set", value)]
    words += ["--smoke"] * arguments.smoke + ["--local"] * arguments.local
    return shlex.join(words) + options_again(arguments, "work")


def _export(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts
    from jobs.evaluate.export import export_pairs

    count = export_pairs(
        read_evaluation(arguments),
        settings_of(arguments),
        arguments.out,
        _scenes_of(arguments),
        local=arguments.local,
    )
    print_facts({"pairs": str(count), "folder": str(arguments.out)})


def _restore(arguments: argparse.Namespace) -> None:
    from jobs.config import find_recipe
    from jobs.console import print_facts
    from jobs.evaluate.restoration import measure_restoration

    measure_restoration(
        arguments.model,
        settings_of(arguments),
        arguments.out,
        _scenes_of(arguments),
        shard=find_recipe(DATASETS, arguments.degraded_by).shard,
        num_scenes=arguments.num_scenes,
    )
    print_facts({"table": str(arguments.out)})


def _scenes_of(arguments: argparse.Namespace) -> SceneChoice:
    from jobs.evaluate.scenes import SceneChoice

    return SceneChoice(arguments.scenes, arguments.split, arguments.dataset)


def read_folders(assignments: Sequence[str], option: str = "--method") -> dict[str, Path]:
    """The folders of an option, by name. Raises ValueError for one that is not written NAME=DIR."""
    folders = {}
    for assignment in assignments:
        name, equals, folder = assignment.partition("=")
        if not equals or not name or name in folders:
            raise ValueError(f"{option} {assignment}: write NAME=DIR, every name once")
        folders[name] = Path(folder)
    return folders


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    _add_scenes(parser)
    for option, what in (
        ("--method", "another method's fused pictures of exported pairs, or of the clean ones"),
        ("--restore", "exported pairs that another program restored, to be fused by the baselines"),
    ):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=DIR",
            help=f"a folder of {what} (repeatable)",
        )
    add_recipe_arguments(parser, EVALUATION, default="singles")
    parser.add_argument(
        "--local", action="store_true", help="a bundle's folder, in this process: no Ray, no MLflow"
    )
    add_address(parser)
    add_placement(parser)
    add_work(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_scenes(parser)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    add_recipe_arguments(parser, EVALUATION, default="singles")
    parser.add_argument("--local", action="store_true", help="in this process: no Ray")
    add_address(parser)
    add_work(parser)


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="models:/NAME/VERSION, or the folder of a bundle or checkpoint"
    )
    _add_scenes(parser)
    parser.add_argument("--out", type=Path, required=True, help="the table to write, CSV")
    parser.add_argument(
        "--num-scenes",
        type=whole_number(1, 10**6),
        metavar="N",
        help="the first ones (default: all)",
    )
    parser.add_argument(
        "--degraded-by",
        default="shipped",
        metavar="RECIPE",
        help="dataset recipe for scenes without degraded files of their own (default: %(default)s)",
    )
    add_work(parser)


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--split", default="val", help="of the index (default: %(default)s)")
    parser.add_argument("--dataset", help="only this one of the data sets in the index")


COMMAND = Command(
    "evaluate",
    __doc__,
    [
        "python -m jobs.evaluate models:/dspfusion@challenger --scenes roadscene",
        "python -m jobs.evaluate models:/dspfusion/3 --scenes msrs --split test --recipe all",
        "python -m jobs.evaluate export --scenes roadscene --recipe all --out work/pairs",
        "python -m jobs.evaluate models:/dspfusion/3 --scenes roadscene --recipe all --method A=results/a",
        "python -m jobs.evaluate restoration models:/lure/1 --scenes restoration --split test --out t.csv",
    ],
    Verb(_add_arguments, _evaluate, read_evaluation),
    {
        "export": Verb(_add_export, _export, read_evaluation),
        "restoration": Verb(_add_restoration, _restore),
    },
)


if __name__ == "__main__":
    COMMAND.run()
