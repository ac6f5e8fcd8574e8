"""The report of `jobs.evaluate`: the page, what it shows, and the run it is logged to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.console import print_line
from jobs.evaluate.subject import ROWS, Evaluation, Subject
from jobs.locations import source_reader
from models.system import Fuser
from pipelines.evaluation.efficiency import Efficiency, measure_efficiency
from pipelines.evaluation.hints import hints_of
from pipelines.evaluation.measuring import (
    Example,
    choose_scenes,
    make_example,
    methods_of,
    steps_means,
)
from pipelines.evaluation.probes import (
    Embedded,
    degraded_pictures,
    embed,
    in_words,
    map_points,
    tell_apart,
)
from pipelines.evaluation.rows import BASELINE, MODEL, Row, read_rows
from pipelines.evaluation.summaries import OVERALL, summarise, worst_cases
from pipelines.promotion.gate import GateConfig
from pipelines.reports.evaluation_report import EvaluationPage, write_report
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import fetched_scenes, load_pair
from pipelines.training.checkpoints import read_config

REPORT = "report.html"
# Of every metric that the gate looks at.
_NUM_WORST = 2
# The model and its first baselines: nine pictures in a row are too small to judge.
_SHOWN_METHODS = 4
# Scenes whose degradation priors are mapped: enough to see groups, few enough to read.
_MAPPED_SCENES = 16


def write_page(
    task: Evaluation, run_id: str | None, curves: Mapping[str, list[tuple[int, float]]]
) -> dict[str, float]:
    """Write the page; return how well the probe tells the degradations apart."""
    subject, rows = task.subject, read_rows(task.folder / ROWS)
    with fetched_scenes(subject.scenes, source_reader(task.settings)) as scenes:
        here = replace(subject, scenes=tuple(scenes))
        methods = methods_of(subject.measurement, task.own_device)
        embedded = _embed(here)
        apart = _told_apart(embedded)
        page = EvaluationPage(
            title=f"{subject.model} on {subject.where}",
            facts=_report_facts(subject, run_id) | in_words(apart),
            rows=rows,
            examples=_examples(here, methods),
            curves=dict(curves),
            worst=_worst(here, rows, methods),
            points=map_points(embedded, seed=subject.recipe.seed) if embedded else [],
            efficiencies=_efficiencies(here, methods),
            steps=_steps(task),
        )
        write_report(task.folder / REPORT, page)
    return apart


def log_report(client: Any, task: Evaluation, run_id: str, apart: Mapping[str, float]) -> None:
    """Log rows, page and means to the run, and finish it."""
    from infra.registry import tracking

    tracking.log_folder(client, run_id, task.folder, "evaluation")
    for method, means in overall_means(read_rows(task.folder / ROWS)).items():
        finite = {
            f"{method}.{name}": value for name, value in means.items() if math.isfinite(value)
        }
        tracking.log_metrics(client, run_id, finite)
    tracking.log_metrics(client, run_id, dict(apart))
    tracking.finish_run(client, run_id)


def overall_means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Means over all scenarios, by method; methods that were not measured in all are left out."""
    summary = summarise(rows)
    return {
        method: {metric: summary.means[OVERALL, method, metric] for metric in summary.metrics}
        for method in summary.methods
        if (OVERALL, method, summary.metrics[0]) in summary.means
    }


def _examples(subject: Subject, methods: Mapping[str, Fuser]) -> list[Example]:
    """Pictures for the report: every scenario once, over the first few scenes in turn."""
    recipe = subject.recipe
    few = dict(list(methods.items())[:_SHOWN_METHODS])
    shown = choose_scenes(subject.scenes, recipe.num_examples)
    return [
        make_example(
            shown[index % len(shown)],
            scenario,
            few,
            seed=recipe.seed,
            hint_names=subject.hint_names,
        )
        for index, scenario in enumerate(subject.measurement.scenarios)
        if shown
    ]


def _worst(subject: Subject, rows: Sequence[Row], methods: Mapping[str, Fuser]) -> list[Example]:
    """Pictures of the scenes where the model loses most to the average, by each of the gate's metrics."""
    shown = {name: methods[name] for name in (MODEL, BASELINE)}
    scenes = {scene.id: scene for scene in subject.scenes}
    scenarios = {scenario.name: scenario for scenario in subject.measurement.scenarios}
    metrics = [name for name in GateConfig().metrics if name in rows[0]]
    cases = worst_cases(rows, metrics=metrics, model=MODEL, baseline=BASELINE, count=_NUM_WORST)
    return [
        replace(
            make_example(
                scenes[scene],
                scenarios[name],
                shown,
                seed=subject.recipe.seed,
                hint_names=subject.hint_names,
            ),
            note=f"farthest behind on {', '.join(worst_on)}",
        )
        for (scene, name), worst_on in cases.items()
    ]


def _embed(subject: Subject) -> Embedded | None:
    """The probe's vectors of the degraded pictures; None for a model without a probe."""
    measurement = subject.measurement
    probe = measurement.bundle.system.probe
    if probe is None:
        return None
    scenes = choose_scenes(subject.scenes, _MAPPED_SCENES)
    pictures = degraded_pictures(scenes, measurement.scenarios, seed=measurement.seed)
    return embed(probe, measurement.bundle.fuser(), pictures)


def _told_apart(embedded: Embedded | None) -> dict[str, float]:
    """How well the probe separates the degradations; empty for a single scene."""
    return tell_apart(embedded) if embedded and len(set(embedded.scenes)) > 1 else {}


def _efficiencies(subject: Subject, methods: Mapping[str, Fuser]) -> list[Efficiency]:
    """What every method costs on the first scene."""
    vi, ir = (to_tensor(image) for image in load_pair(subject.scenes[0]))
    hints = hints_of(subject.hint_names, vi=(), ir=())
    return [measure_efficiency(name, fuse, vi, ir, hints) for name, fuse in methods.items()]


def _steps(task: Evaluation) -> dict[int, dict[str, float]]:
    """Means by number of sampling steps, on the example scenes; none for a model without steps."""
    subject = task.subject
    counts = subject.recipe.steps
    scenes = choose_scenes(subject.scenes, subject.recipe.num_examples)
    if not counts or not scenes:
        return {}
    measurement = subject.measurement
    if measurement.bundle.system.num_steps(measurement.bundle.model) is None:
        print_line("  no sampling-steps curve: this model does not sample in steps")
        return {}
    arguments = (scenes, measurement, source_reader(task.settings))
    with task.workers() as run:
        found = list(run(steps_means, counts, *arguments))
    return {int(means.pop("num_steps")): means for means in found}


def _report_facts(subject: Subject, run_id: str | None) -> dict[str, str]:
    origin: Any = read_config(subject.bundle).get("origin", {})
    names = ("recipe", "dataset_version", "init_from", "run_id", "git_commit")
    return {name: origin[name] for name in names if name in origin} | {
        "evaluation run": run_id or "none: it was local",
        "scenes": str(len(subject.scenes)),
    }


def loss_curves(client: Any, bundle: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss curves of the runs that made the bundle, where this MLflow store has them."""
    from infra.registry import tracking

    origin: Any = read_config(bundle).get("origin", {})
    runs = {
        "Loss of the run before": origin.get("init_from", "").removeprefix("runs:/"),
        "Loss": origin.get("run_id", ""),
    }
    return {
        title: curve
        for title, run_id in runs.items()
        if run_id and (curve := tracking.metric_curve(client, run_id, "loss"))
    }
