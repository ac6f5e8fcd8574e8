"""The report of `jobs.evaluate`: the page, what it shows, and the run it is logged to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.console import print_line, progress
from jobs.evaluate.subject import ROWS, Evaluation, Subject
from pipelines.evaluation.efficiency import Efficiency, measure_efficiency
from pipelines.evaluation.measuring import (
    CaseMeasurer,
    Example,
    choose_scenes,
    make_example,
    steps_means,
)
from pipelines.probes.known_pictures import Picture, degraded_pictures
from pipelines.probes.latents import Embedded, embed, in_words, map_points, tell_apart
from pipelines.promotion.gate import GateConfig
from pipelines.reports.evaluation_report import EvaluationPage, write_report
from pipelines.results.rows import BASELINE, MODEL, Row, read_rows
from pipelines.results.summaries import OVERALL, summarise, worst_cases
from pipelines.scenarios.degraded_pairs import cases_of
from pipelines.scenarios.hints import hints_of
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import fetched_scenes, load_pair
from pipelines.training.checkpoints import read_config

REPORT = "report.html"
# Of every metric that the gate looks at.
_NUM_WORST = 2
# The model and its first baselines: nine pictures in a row are too small to judge.
_SHOWN_METHODS = 4
_SHOWN_GIVEN = 6
# Scenes whose degradation priors are mapped: enough to see groups, few enough to read.
_MAPPED_SCENES = 16


def write_page(
    task: Evaluation,
    run_id: str | None,
    curves: Mapping[str, list[tuple[int, float]]],
    run_url: str = "",
) -> dict[str, float]:
    """Write the page, with a link to its run; return how well the probe tells the degradations apart."""
    subject, rows = task.subject, read_rows(task.folder / ROWS)
    measured = task.measurer(task.own_device)
    with fetched_scenes(subject.scenes, measured.read) as scenes:
        here = replace(subject, scenes=tuple(scenes))
        embedded = _embed(here, measured)
        apart = _told_apart(embedded)
        print_line("  writing the report: pictures, and what a pair costs")
        page = EvaluationPage(
            title=f"{subject.asked.model} on {subject.where}",
            facts=_report_facts(subject, run_id) | in_words(apart),
            rows=rows,
            examples=_examples(here, measured),
            curves=dict(curves),
            worst=_worst(here, rows, measured),
            points=map_points(embedded, seed=subject.recipe.seed) if embedded else [],
            efficiencies=_efficiencies(here, measured),
            steps=_steps(task),
            command=subject.asked.command,
            run_url=run_url,
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


def _examples(subject: Subject, measured: CaseMeasurer) -> list[Example]:
    """Pictures for the report: every scenario once, over the first few scenes in turn."""
    measurement = measured.measurement
    few = measurement.model_copy(
        update={"given": measurement.given[:_SHOWN_GIVEN], "baselines": (BASELINE,)}
    )
    num_methods = 2 if few.given else _SHOWN_METHODS
    shown = replace(
        measured, measurement=few, methods=dict(islice(measured.fusers.items(), num_methods))
    )
    scenes = choose_scenes(subject.scenes, subject.recipe.num_examples)
    return [
        make_example(cases[index % len(cases)], shown)
        for index, scenario in enumerate(subject.scenarios)
        if (cases := cases_of(scenes, [scenario]))
    ]


def _worst(subject: Subject, rows: Sequence[Row], measured: CaseMeasurer) -> list[Example]:
    """Pictures of the scenes where the model loses most to the average, by each of the gate's metrics."""
    both = {name: measured.fusers[name] for name in (MODEL, BASELINE)}
    alone = measured.measurement.model_copy(update={"given": ()})
    shown = replace(measured, measurement=alone, methods=both)
    cases = {(case.scene.id, case.scenario.name): case for case in subject.cases}
    metrics = [name for name in GateConfig().metrics if name in rows[0]]
    found = worst_cases(rows, metrics=metrics, model=MODEL, baseline=BASELINE, count=_NUM_WORST)
    return [
        make_example(cases[key], shown, f"farthest behind on {', '.join(worst_on)}")
        for key, worst_on in found.items()
    ]


def _embed(subject: Subject, measured: CaseMeasurer) -> Embedded | None:
    """The probe's vectors of the degraded pictures; None for a model without a probe."""
    measurement = measured.measurement
    probe = measurement.bundle.system.probe
    # Captured pictures are too few to be told apart.
    drawn = [scenario for scenario in subject.scenarios if not scenario.captured]
    if probe is None or not drawn:
        return None
    scenes = choose_scenes(subject.scenes, _MAPPED_SCENES)
    with progress("scenes of the report's map", len(scenes)) as advance:

        def pictures() -> Iterator[Picture]:
            for done, scene in enumerate(scenes, start=1):
                yield from degraded_pictures([scene], drawn, seed=measurement.seed)
                advance(done, scene.id)

        return embed(probe, measurement.bundle.fuser(), pictures())


def _told_apart(embedded: Embedded | None) -> dict[str, float]:
    """How well the probe separates the degradations; empty for a single scene."""
    return tell_apart(embedded) if embedded and len(set(embedded.scenes)) > 1 else {}


def _efficiencies(subject: Subject, measured: CaseMeasurer) -> list[Efficiency]:
    """What every method of ours costs on the first scene."""
    vi, ir = (to_tensor(image) for image in load_pair(subject.scenes[0]))
    hints = hints_of(measured.measurement.bundle.system.hint_names, vi=(), ir=())
    return [measure_efficiency(name, fuse, vi, ir, hints) for name, fuse in measured.fusers.items()]


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
    with task.workers() as there:
        found = list(there.map(steps_means, counts, scenes, task.measurer(there.device)))
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
