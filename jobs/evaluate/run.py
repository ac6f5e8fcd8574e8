"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by classical baselines,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what `jobs.promote` asks for. An evaluation that was stopped goes
on from the scenes it had finished, with the same command. `--method NAME=DIR` adds another method's
fused pictures of the clean pairs as a row.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, read_settings
from jobs.config import (
    EvaluateRecipe,
    add_recipe_arguments,
    find_recipe,
    override,
    shrink_evaluation,
)
from jobs.console import print_facts, print_line, run_command
from jobs.evaluate.report import REPORT, make_report, overall_means
from jobs.evaluate.subject import PARTS, ROWS, Subject, check_subject, measure_scenes
from jobs.fuse.run import bundle_of, resolve_model
from jobs.recipes import EVALUATION
from jobs.scan import load_index
from pipelines.evaluation.measuring import choose_scenes
from pipelines.evaluation.rows import BASELINE, MODEL, read_rows, write_rows
from pipelines.evaluation.summaries import by_dataset, format_datasets, format_table, summarise


class Evaluated(BaseModel):
    """A finished evaluation: of which version or bundle, its run, its folder, means by method.

    An alias is pinned when the evaluation starts, so `model` is what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    run_id: str
    folder: Path
    means: dict[str, dict[str, float]]


def evaluate(
    recipe: EvaluateRecipe,
    settings: Settings,
    *,
    model: str,
    scenes: str,
    split: str = "val",
    dataset: str | None = None,
    tag: bool = True,
    folders: Mapping[str, Path] | None = None,
) -> Evaluated:
    """Evaluate `model` on a split of the index called `scenes`, or find that it was.

    With `dataset` only on that data set of the index.
    With `tag` a registered version is told of it, and the gate will judge it by this evaluation.
    `folders` holds other methods' fused pictures of the clean pairs, by name.
    Raises ValueError when model, index, split, data set or a scenario does not exist, or a picture
    is missing.
    """
    from infra.registry import tracking

    client = tracking.connect(settings)
    model = resolve_model(model, settings)
    of_split = load_index(settings, scenes).scenes.of_split(split, dataset=dataset)
    chosen = choose_scenes(of_split, recipe.num_scenes)
    where = "-".join(filter(None, (Path(scenes).stem, dataset, split)))
    bundle = bundle_of(model, settings)
    subject = Subject(recipe, model, bundle, where, chosen, folders or {})
    check_subject(subject)
    tags = subject.tags
    folder = settings.work / "reports" / f"{where}-{tags['config_digest'][:12]}"
    done = tracking.find_run(client, tags["config_digest"])
    if done and done.info.status == "FINISHED" and (folder / ROWS).is_file():
        run_id = done.info.run_id
        print_line(f"  evaluated already: run {run_id}")
    else:
        run_id = tracking.open_run(
            client,
            name=f"evaluate-{where}",
            config=recipe.model_dump(mode="json"),
            tags={**tags, "git_commit": code_commit()},
        ).info.run_id
        try:
            if not (folder / ROWS).is_file():
                write_rows(measure_scenes(subject, settings, folder / PARTS), folder / ROWS)
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            print_line("  writing the report")
            make_report(client, subject, folder, run_id, settings)
        except BaseException as error:
            tracking.fail_run(client, run_id, error)
            raise
    if tag:
        # Also where the numbers were there already: a second version may hold the same weights.
        _tag_version(client, model, run_id)
    return _evaluated(model, run_id, folder)


def _evaluated(model: str, run_id: str, folder: Path) -> Evaluated:
    rows = read_rows(folder / ROWS)
    for line in format_table(summarise(rows), model=MODEL, baseline=BASELINE):
        print_line(f"  {line}")
    parts = by_dataset(rows)
    if len(parts) > 1:
        for line in format_datasets(parts, model=MODEL, baseline=BASELINE):
            print_line(f"  {line}")
    return Evaluated(model=model, run_id=run_id, folder=folder, means=overall_means(rows))


def _tag_version(client: Any, model: str, run_id: str) -> None:
    if not model.startswith("models:/"):
        return
    from infra.registry import model_versions as registry

    version = registry.find_model(client, model)
    client.set_model_version_tag(version.name, version.version, "evaluation_run_id", run_id)


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    recipe = find_recipe(EVALUATION, arguments.recipe)
    if arguments.smoke:
        recipe = shrink_evaluation(recipe)
    recipe = override(recipe, arguments.overrides)
    evaluated = evaluate(
        recipe,
        settings,
        model=arguments.model,
        scenes=arguments.scenes,
        split=arguments.split,
        dataset=arguments.dataset,
        # A try-out must not become what the gate judges a version by.
        tag=not arguments.smoke,
        folders=_folders(arguments.method),
    )
    print_facts({"run": evaluated.run_id, "report": str(evaluated.folder / REPORT)})
    if arguments.model.startswith("models:/") and not arguments.smoke:
        name, _, number = evaluated.model.removeprefix("models:/").partition("/")
        print_line(f"next: python -m jobs.promote {name} --version {number}")


def _folders(assignments: Sequence[str]) -> dict[str, Path]:
    folders = {}
    for assignment in assignments:
        name, equals, folder = assignment.partition("=")
        if not equals or not name or name in folders:
            raise ValueError(f"--method {assignment}: write NAME=DIR, every name once")
        folders[name] = Path(folder)
    return folders


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--split", default="val")
    parser.add_argument("--dataset", help="only this one of the data sets in the index")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder of another method's fused pictures of the clean pairs (repeatable)",
    )
    add_recipe_arguments(parser, EVALUATION, default="singles")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
