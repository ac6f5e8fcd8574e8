"""The evaluation report: one HTML page with pictures, tables and curves inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluation.efficiency import Efficiency
from pipelines.evaluation.measuring import Example
from pipelines.probes.latents import Point
from pipelines.reports.curves import Curve, CurveChart, curve_chart
from pipelines.reports.evaluation_charts import bar_charts, map_of_points
from pipelines.reports.filters import number
from pipelines.reports.page import Figure, data_uri, write_page
from pipelines.reports.verdict import verdict
from pipelines.results.rows import BASELINE, BETTER
from pipelines.results.summaries import HEADLINE, OVERALL, Summary, by_dataset, summarise

_NUMBERS_BELOW = ("VIF", "Qabf", "MI", "SSIM", "PSNR")
_GAINS_IN_TILE = 4
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EvaluationPage:
    """What the report shows; parts without content are left out.

    The first method of `rows` is the model; the others are what it is compared with.
    `steps` holds means by the number of sampling steps, `command` what makes the page again, `run_url`
    where its MLflow run is shown.
    """

    title: str
    facts: Mapping[str, str]
    rows: Rows
    examples: Sequence[Example]
    curves: Mapping[str, Curve]
    worst: Sequence[Example] = ()
    points: Sequence[Point] = ()
    efficiencies: Sequence[Efficiency] = ()
    steps: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    command: str = ""
    run_url: str = ""


class Tile(NamedTuple):
    """The model's mean of a metric over all scenarios, and its gains: method, gain, up or down.

    On the baseline, and on the strongest of the others.
    """

    metric: str
    mean: float
    gains: Sequence[tuple[str, float, str]]


class Strip(NamedTuple):
    """The pictures of one scene under one scenario."""

    scenario: str
    note: str
    figures: Sequence[Figure]


def write_report(path: Path, page: EvaluationPage) -> None:
    """Write one self-contained page."""
    rows = [dict(row) for row in page.rows]
    summary = summarise(rows) if rows else None
    write_page(
        path,
        "evaluation.html.j2",
        title=page.title,
        facts=page.facts,
        verdict=verdict(summary, rows) if summary else "",
        command=page.command,
        run_url=page.run_url,
        overall=OVERALL,
        baseline=BASELINE,
        falling=[name for name in summary.metrics if BETTER[name] < 0] if summary else [],
        summary=summary,
        tiles=list(_tiles(summary)) if summary else [],
        datasets=by_dataset(rows),
        bars=bar_charts(summary, rows) if summary else [],
        worst=_strips(page.worst, rows),
        examples=_strips(page.examples, rows),
        steps=list(_step_curves(page.steps)),
        efficiencies=page.efficiencies,
        map=map_of_points(page.points) if page.points else None,
        curves=[curve_chart(name, points) for name, points in page.curves.items()],
    )


def _tiles(summary: Summary) -> Iterator[Tile]:
    model, *others = summary.methods
    for metric in summary.headline:
        mean, gains = summary.means[OVERALL, model, metric], []
        for other in others:
            if (OVERALL, other, metric) in summary.means:
                gain = mean - summary.means[OVERALL, other, metric]
                better = BETTER[metric] * gain
                kind = "up" if better > 0 else "down" if better < 0 else ""
                gains.append((other != BASELINE, better, (other, gain, kind)))
        yield Tile(metric, mean, [shown for *_, shown in sorted(gains)[:_GAINS_IN_TILE]])


def _step_curves(steps: Mapping[int, Mapping[str, float]]) -> Iterator[CurveChart]:
    names = [name for name in HEADLINE if steps and name in next(iter(steps.values()))]
    for name in names:
        points = [(num_steps, means[name]) for num_steps, means in sorted(steps.items())]
        yield curve_chart(f"{name} by sampling steps", points)


def _strips(examples: Sequence[Example], rows: Rows) -> list[Strip]:
    by_key = {(row["scene"], row["scenario"], row["method"]): row for row in rows}
    strips = []
    for example in examples:
        figures = _source_figures(example)
        for method, picture in example.fused.items():
            row = by_key.get((example.scene, example.scenario, method), {})
            numbers = [f"{name} {number(row[name])}" for name in _NUMBERS_BELOW if name in row]
            figures.append(Figure(data_uri(picture), f"Fused: {method}", numbers))
        note = ", ".join(filter(None, (example.scene, example.note)))
        strips.append(Strip(example.scenario, note, figures))
    return strips


def _source_figures(example: Example) -> list[Figure]:
    figures = [
        Figure(data_uri(example.vi), "Source VI"),
        Figure(data_uri(example.ir), "Source IR"),
    ]
    pairs = (("VI", example.vi, example.vi_lq), ("IR", example.ir, example.ir_lq))
    for camera, clean, degraded in pairs:
        lines = ["not degraded"] if np.array_equal(clean, degraded) else []
        figures.append(Figure(data_uri(degraded), f"Degraded {camera}", lines))
    return figures
