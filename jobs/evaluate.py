"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by classical baselines,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what `jobs.promote` asks for. An evaluation that was stopped goes
on from the scenes it had finished, with the same command. `--method NAME=DIR` adds another method's
fused pictures of the clean pairs as a row.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from jobs.console import facts, progress, run_command, say
from jobs.fuse import bundle_of, resolve_model
from jobs.recipes import EVALUATION
from jobs.scan import load_index
from jobs.storage import source_reader
from models.metrics import DEFAULT, METRIC_VERSION, MIN_SIDE_PX
from pipelines.baselines import BASELINES
from pipelines.checkpoints import read_config
from pipelines.efficiency import Efficiency, measure_efficiency
from pipelines.embedding import Point, map_priors
from pipelines.evaluation import (
    BASELINE,
    MODEL,
    OVERALL,
    Example,
    Measurement,
    Row,
    check_folder,
    evaluate_bundle,
    format_table,
    make_example,
    methods_of,
    metrics_for,
    read_rows,
    steps_means,
    summarise,
    worst_cases,
    write_rows,
)
from pipelines.export import load_bundle
from pipelines.files import sha256_of_file
from pipelines.images import to_tensor
from pipelines.report import write_report
from pipelines.scenarios import find_scenario
from pipelines.scenes import Scene, fetched, load_pair
from pipelines.seeding import digest_of

ROWS, REPORT = "rows.parquet", "report.html"
_SCENES_A_TASK = 2
_PARTS = "parts"
_NUM_WORST = 3
# The model and its first baselines: nine pictures in a row are too small to judge.
_SHOWN_METHODS = 4
# Scenes of the map of priors: enough to see groups, few enough to read.
_MAPPED_SCENES = 8


class Evaluated(BaseModel):
    """A finished evaluation: of which version or bundle, its run, its folder, means by method.

    An alias is pinned when the evaluation starts, so `model` is what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    run_id: str
    folder: Path
    means: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Subject:
    """What is measured on what: everything that decides the numbers."""

    recipe: EvaluateRecipe
    model: str
    bundle: Path
    where: str
    scenes: tuple[Scene, ...]
    folders: Mapping[str, Path]

    @property
    def measurement(self) -> Measurement:
        """What the workers are told."""
        return Measurement(
            bundle=self.bundle,
            scenarios=tuple(find_scenario(name) for name in self.recipe.scenarios),
            baselines=self.recipe.baselines,
            folders=dict(self.folders),
            metrics=metrics_for(self.scenes),
            seed=self.recipe.seed,
        )

    @property
    def tags(self) -> dict[str, str]:
        """Digests of model and scenes, and one of the whole."""
        weights = sha256_of_file(self.bundle / "model.safetensors")
        scenes = digest_of([scene.digest for scene in self.scenes])
        pictures = {
            name: [sha256_of_file(path) for path in sorted(folder.iterdir()) if path.is_file()]
            for name, folder in self.folders.items()
        }
        measured = [METRIC_VERSION, *metrics_for(self.scenes)]
        whole = [self.recipe.model_dump(mode="json"), weights, scenes, measured, pictures]
        return {
            "model": self.model,
            "model_sha256": weights,
            "scenes": self.where,
            "scenes_digest": scenes,
            "config_digest": digest_of(whole),
        }


def evaluate(
    recipe: EvaluateRecipe,
    settings: Settings,
    *,
    model: str,
    scenes: str,
    split: str = "val",
    tag: bool = True,
    folders: Mapping[str, Path] | None = None,
) -> Evaluated:
    """Evaluate `model` on a split of the index called `scenes`, or find that it was.

    With `tag` a registered version is told of it, and the gate will judge it by this evaluation.
    `folders` holds other methods' fused pictures of the clean pairs, by name.
    Raises ValueError when model, index, split or a scenario does not exist, or a picture is missing.
    """
    from infra import tracking

    client = tracking.connect(settings)
    model = resolve_model(model, settings)
    chosen = load_index(settings, scenes).scenes.of_split(split)[: recipe.num_scenes]
    where = f"{Path(scenes).stem}-{split}"
    bundle = bundle_of(model, settings)
    subject = _Subject(recipe, model, bundle, where, tuple(chosen), folders or {})
    _check(subject)
    tags = subject.tags
    folder = settings.work / "reports" / f"{where}-{tags['config_digest'][:12]}"
    done = tracking.find_run(client, tags["config_digest"])
    if done and done.info.status == "FINISHED" and (folder / ROWS).is_file():
        run_id = done.info.run_id
        say(f"  evaluated already: run {run_id}")
    else:
        run_id = tracking.open_run(
            client,
            name=f"evaluate-{where}",
            config=recipe.model_dump(mode="json"),
            tags={**tags, "git_commit": code_commit()},
        ).info.run_id
        try:
            if not (folder / ROWS).is_file():
                write_rows(_measure(subject, settings, folder / _PARTS), folder / ROWS)
            shutil.rmtree(folder / _PARTS, ignore_errors=True)
            _report(client, subject, folder, run_id, settings)
        except BaseException as error:
            tracking.fail_run(client, run_id, error)
            raise
    if tag:
        # Also where the numbers were there already: a second version may hold the same weights.
        _tag_version(client, model, run_id)
    return _evaluated(model, run_id, folder)


def _check(subject: _Subject) -> None:
    """Raise ValueError for a row that cannot be; say which metrics the pictures are too small for."""
    for name, folder in subject.folders.items():
        if name in (MODEL, *BASELINES) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"--method {name}: taken, or not of letters, digits, . _ -; choose another name"
            )
        if "clean" not in subject.recipe.scenarios:
            raise ValueError(
                f"--method {name}: its pictures show the clean pairs, and the recipe lacks 'clean'"
            )
        check_folder(name, folder, subject.scenes)
    for name in DEFAULT:
        if name not in metrics_for(subject.scenes):
            say(f"  {name} is left out: it needs {MIN_SIDE_PX[name]} px a side of every scene")


def _measure(subject: _Subject, settings: Settings, folder: Path) -> list[Row]:
    """Rows of all scenes under all scenarios, measured as Ray tasks.

    Every finished task leaves its rows in `folder`; those that lie there are not measured again.
    """
    from infra import cluster

    starts = range(0, len(subject.scenes), _SCENES_A_TASK)
    # A few scenes a task: long enough to load the bundle once for them, short enough to share.
    parts = [subject.scenes[start : start + _SCENES_A_TASK] for start in starts]
    done = [part for part in parts if _part_path(folder, part).is_file()]
    rows = [row for part in done for row in read_rows(_part_path(folder, part))]
    left = [part for part in parts if part not in done]
    by_id = {scene.id: scene for scene in subject.scenes}
    if done:
        say(f"  {len(done)} of {len(parts)} parts were measured before")
    with (
        cluster.connected(settings),
        progress("scenes", len(subject.scenes)) as advance,
    ):
        arguments = (subject.measurement, source_reader(settings))
        for found in cluster.map_tasks(evaluate_bundle, left, *arguments):
            ids = sorted({row["scene"] for row in found})
            write_rows(found, _part_path(folder, [by_id[name] for name in ids]))
            rows += found
            advance(len({row["scene"] for row in rows}))
    # The report takes the first method for the model.
    methods = (MODEL, *subject.recipe.baselines, *subject.folders)
    return sorted(
        rows, key=lambda row: (row["scenario"], row["scene"], methods.index(row["method"]))
    )


def _part_path(folder: Path, part: Sequence[Scene]) -> Path:
    return folder / f"{digest_of(sorted(scene.id for scene in part))[:16]}.parquet"


def _report(client: Any, subject: _Subject, folder: Path, run_id: str, settings: Settings) -> None:
    """Write the page and log everything to the run."""
    from infra import tracking

    rows = read_rows(folder / ROWS)
    with fetched(subject.scenes, source_reader(settings)) as scenes:
        here = replace(subject, scenes=tuple(scenes))
        write_report(
            folder / REPORT,
            title=f"{subject.model} on {subject.where}",
            facts=_report_facts(subject, run_id),
            rows=rows,
            examples=_examples(here),
            curves=_curves(client, subject.bundle),
            worst=_worst(here, rows),
            points=_points(here),
            efficiencies=_efficiencies(here),
            steps=_steps(subject, settings),
        )
    tracking.log_folder(client, run_id, folder, "evaluation")
    for method, means in _overall_means(rows).items():
        finite = {
            f"{method}.{name}": value for name, value in means.items() if math.isfinite(value)
        }
        tracking.log_metrics(client, run_id, finite)
    tracking.finish_run(client, run_id)


def _evaluated(model: str, run_id: str, folder: Path) -> Evaluated:
    rows = read_rows(folder / ROWS)
    for line in format_table(summarise(rows), model=MODEL, baseline=BASELINE):
        say(f"  {line}")
    return Evaluated(model=model, run_id=run_id, folder=folder, means=_overall_means(rows))


def _overall_means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    summary = summarise(rows)
    return {
        method: {metric: summary.means[OVERALL, method, metric] for metric in summary.metrics}
        for method in summary.methods
        if (OVERALL, method, summary.metrics[0]) in summary.means
    }


def _examples(subject: _Subject) -> list[Example]:
    """Pictures for the report: every scenario once, over the first few scenes in turn."""
    recipe = subject.recipe
    methods = dict(list(methods_of(subject.measurement).items())[:_SHOWN_METHODS])
    shown = subject.scenes[: recipe.num_examples]
    return [
        make_example(shown[index % len(shown)], find_scenario(name), methods, seed=recipe.seed)
        for index, name in enumerate(recipe.scenarios)
        if shown
    ]


def _worst(subject: _Subject, rows: Sequence[Row]) -> list[Example]:
    """Pictures of where the model stays farthest behind the average on SSIM, beside the average."""
    methods = methods_of(subject.measurement)
    shown = {name: methods[name] for name in (MODEL, BASELINE)}
    scenes = {scene.id: scene for scene in subject.scenes}
    cases = worst_cases(rows, metric="SSIM", model=MODEL, baseline=BASELINE, count=_NUM_WORST)
    return [
        make_example(scenes[scene], find_scenario(name), shown, seed=subject.recipe.seed)
        for scene, name in cases
    ]


def _points(subject: _Subject) -> list[Point]:
    measurement = subject.measurement
    fuser, scenes = load_bundle(subject.bundle), subject.scenes[:_MAPPED_SCENES]
    return map_priors(fuser, scenes, measurement.scenarios, seed=measurement.seed)


def _efficiencies(subject: _Subject) -> list[Efficiency]:
    """What every method costs on the first scene."""
    vi, ir = (to_tensor(image) for image in load_pair(subject.scenes[0]))
    return [
        measure_efficiency(name, fuse, vi, ir)
        for name, fuse in methods_of(subject.measurement).items()
    ]


def _steps(subject: _Subject, settings: Settings) -> dict[int, dict[str, float]]:
    """Means by number of sampling steps, on the example scenes; none for a model without steps."""
    from infra import cluster

    counts, scenes = subject.recipe.steps, subject.scenes[: subject.recipe.num_examples]
    if not counts or not scenes:
        return {}
    if load_bundle(subject.bundle).denoiser is None:
        say("  no sampling-steps curve: this model has no diffusion")
        return {}
    arguments = (scenes, subject.measurement, source_reader(settings))
    with cluster.connected(settings):
        found = list(cluster.map_tasks(steps_means, counts, *arguments))
    return {int(means.pop("num_steps")): means for means in found}


def _report_facts(subject: _Subject, run_id: str) -> dict[str, str]:
    origin: Any = read_config(subject.bundle).get("origin", {})
    names = ("recipe", "dataset_version", "stage1", "run_id", "git_commit")
    return {name: origin[name] for name in names if name in origin} | {
        "evaluation run": run_id,
        "scenes": str(len(subject.scenes)),
    }


def _curves(client: Any, bundle: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss curves of the runs that made the bundle, where this MLflow store has them."""
    from infra import tracking

    origin: Any = read_config(bundle).get("origin", {})
    runs = {
        "Stage I loss": origin.get("stage1", "").removeprefix("runs:/"),
        "Stage II loss": origin.get("run_id", ""),
    }
    return {
        title: curve
        for title, run_id in runs.items()
        if run_id and (curve := tracking.metric_curve(client, run_id, "loss"))
    }


def _tag_version(client: Any, model: str, run_id: str) -> None:
    if not model.startswith("models:/"):
        return
    from infra import registry

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
        # A try-out must not become what the gate judges a version by.
        tag=not arguments.smoke,
        folders=_folders(arguments.method),
    )
    facts({"run": evaluated.run_id, "report": str(evaluated.folder / REPORT)})
    if arguments.model.startswith("models:/") and not arguments.smoke:
        name, _, number = evaluated.model.removeprefix("models:/").partition("/")
        say(f"next: python -m jobs.promote {name} --version {number}")


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
