"""An evaluation: measured on Ray, logged to MLflow, reused when it is unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit
from jobs.console import duration, print_line, progress
from jobs.evaluate.report import log_report, loss_curves, overall_means, write_page
from jobs.evaluate.subject import (
    PARTS,
    ROWS,
    Asked,
    Evaluation,
    Subject,
    check_subject,
)
from jobs.fuse.run import bundle_of, resolve_model
from jobs.promote.describe import describe_version
from jobs.recipes.kinds import EvaluateRecipe
from pipelines.evaluation.forecast import forecast_s
from pipelines.evaluation.measuring import measure_case
from pipelines.promotion.lineage import SCENES
from pipelines.results.rows import BASELINE, MODEL, read_rows, write_rows
from pipelines.results.summaries import by_dataset, format_datasets, format_table, summarise
from pipelines.scenarios.degraded_pairs import Case
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import SceneTable

# The tag of an evaluation's run that says how to measure another version on the same scenes.
OPTIONS = "scenes_options"


class Evaluated(BaseModel):
    """A finished evaluation: of which version or bundle, its run, its folder, means by method.

    An alias is pinned when the evaluation starts, so `model` is what was measured. A local one has no run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    run_id: str | None
    folder: Path
    means: dict[str, dict[str, float]]


def evaluate(
    recipe: EvaluateRecipe, settings: Settings, asked: Asked, *, tag: bool = True
) -> Evaluated:
    """Evaluate what is asked for, or reuse the finished evaluation.

    With `tag` a registered version is tagged with the run, and the gate judges it by this evaluation.
    Raises ValueError when model, index, split, data set or a scenario does not exist, or a picture
    is missing.
    """
    task = _evaluation(recipe, settings, asked)
    if asked.placement.local:
        _measure(task)
        _write_local_page(task)
        return _evaluated(task, None)
    from infra.registry import tracking

    client = tracking.connect(settings)
    run_id = _finished_run(client, task)
    if run_id is None:
        with _run_of(client, task.subject) as run_id:
            _measure(task)
            _report(client, task, run_id)
    if tag:
        # Also when the rows are reused: a second version may hold the same weights.
        _tag_version(client, task.subject.asked.model, run_id)
    return _evaluated(task, run_id)


def _evaluation(recipe: EvaluateRecipe, settings: Settings, asked: Asked) -> Evaluation:
    """Find what is asked for, the model by its version, and check that it can be measured."""
    model = asked.model
    if not asked.placement.local:
        model = resolve_model(model, settings)
    elif model.startswith("models:/"):
        raise ValueError(f"{model}: --local knows no registry; give a bundle's folder")
    chosen, bundle = asked.scenes.load(settings, recipe.num_scenes), bundle_of(model, settings)
    subject = Subject(recipe, replace(asked, model=model), bundle, chosen)
    check_subject(subject)
    return Evaluation(subject, settings)


def _finished_run(client: Any, task: Evaluation) -> str | None:
    """The finished run of the same subject, if there is one."""
    from infra.registry import tracking

    done = tracking.find_run(client, task.subject.tags["config_digest"])
    if not (done and done.info.status == "FINISHED" and task.is_measured):
        return None
    print_line(f"  evaluated already: run {done.info.run_id}")
    return str(done.info.run_id)


def _report(client: Any, task: Evaluation, run_id: str) -> None:
    from infra.registry import tracking

    page = tracking.run_page(client, run_id, task.settings)
    apart = write_page(task, run_id, loss_curves(client, task.subject.bundle), page)
    log_report(client, task, run_id, apart)


def _measure(task: Evaluation) -> None:
    """Measure the cases that are left, and join the rows of all, unless they are."""
    if not task.is_measured:
        total, left = len(task.parts), task.left()
        with task.workers() as there, progress("scenes under scenarios", total) as advance:
            print_line(f"  {_forecast(task, left, there.count)}")
            measured = there.map(measure_case, left, task.measurer(there.device))
            for done, rows in enumerate(measured, start=total - len(left) + 1):
                task.keep(rows)
                advance(done, f"{rows[0]['scene']}, {rows[0]['scenario']}")
        write_rows(task.rows(), task.folder / ROWS)
    shutil.rmtree(task.folder / PARTS, ignore_errors=True)
    # The gate asks whether the version was trained on them.
    measured_scenes = ScanResult(scenes=SceneTable.of(task.subject.scenes), refused=())
    write_index(measured_scenes, task.folder / SCENES)


def _forecast(task: Evaluation, left: Sequence[Case], num_workers: int) -> str:
    """A sentence about how much there is to measure, and how long that takes."""
    subject = task.subject
    cases = f"{len(subject.scenes)} scenes of {subject.where}, {len(left)} left under scenarios"
    if not left:
        return cases
    seconds = forecast_s(task.measurer(task.own_device), left) / min(num_workers, len(left))
    methods = len(subject.measurement.methods)
    return (
        f"{cases}, {methods} methods: about {duration(seconds)} on {num_workers} workers "
        f"(tried here on a corner of the first, device {task.own_device})"
    )


def _write_local_page(task: Evaluation) -> None:
    try:
        write_page(task, None, {})
    except ModuleNotFoundError as absent:
        package = (absent.name or "").partition(".")[0]
        print_line(f"  no report: {package} is not installed; the rows are in {task.folder / ROWS}")


@contextmanager
def _run_of(client: Any, subject: Subject) -> Iterator[str]:
    """Open the evaluation's run, tagged with the options that name its scenes; mark it when it fails."""
    from infra.registry import tracking

    asked = subject.asked.scenes.options
    run = tracking.open_run(
        client,
        name=f"evaluate-{subject.where}",
        config=subject.recipe.model_dump(mode="json"),
        tags={**subject.tags, OPTIONS: asked, "git_commit": code_commit()},
        dataset=tracking.DatasetRef(
            name=subject.where,
            digest=subject.tags["scenes_digest"][:36],
            uri=asked,
            context="evaluation",
        ),
    )
    try:
        yield run.info.run_id
    except BaseException as error:
        tracking.fail_run(client, run.info.run_id, error)
        raise


def _evaluated(task: Evaluation, run_id: str | None) -> Evaluated:
    rows = read_rows(task.folder / ROWS)
    for line in format_table(summarise(rows), model=MODEL, baseline=BASELINE):
        print_line(f"  {line}")
    parts = by_dataset(rows)
    if len(parts) > 1:
        for line in format_datasets(parts, model=MODEL, baseline=BASELINE):
            print_line(f"  {line}")
    model, means = task.subject.asked.model, overall_means(rows)
    return Evaluated(model=model, run_id=run_id, folder=task.folder, means=means)


def _tag_version(client: Any, model: str, run_id: str) -> None:
    if not model.startswith("models:/"):
        return
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    version = registry.find_model(client, model)
    client.set_model_version_tag(version.name, version.version, "evaluation_run_id", run_id)
    means = tracking.run_metrics_of(client, run_id, prefix=f"{MODEL}.")
    registry.measure_version(client, version, run_id, means)
    describe_version(client, version.name, str(version.version))
