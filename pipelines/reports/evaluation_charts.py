"""The charts of the report: bars with intervals, sampling steps, priors, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.embedding import Point
from pipelines.evaluation.intervals import mean_interval
from pipelines.evaluation.rows import BASELINE
from pipelines.evaluation.summaries import HEADLINE, OVERALL, Summary
from pipelines.reports.charts import Bar, Dot, bar_chart, dot_map
from pipelines.reports.curves import Curve, curve_chart
from pipelines.reports.page import section
from pipelines.reports.wording import headline_of, plain_words
from pipelines.store.seeding import rng_at

_NUM_RESAMPLES = 1000


def bars_part(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> str:
    """Every method over all scenarios, and the model against the average scenario by scenario."""
    charts = [_method_bars(summary, rows, metric) for metric in headline_of(summary)]
    if BASELINE in summary.methods[1:]:
        charts += [_gain_bars(summary, rows, metric) for metric in headline_of(summary)]
    return section(
        "How sure the means are",
        f'<div class="charts">{"".join(charts)}</div>',
        note="Whiskers: 95 % bootstrap intervals over scenes. First the methods that were measured "
        f"under every scenario, then what the model gains on the {BASELINE}, by scenario.",
    )


def _method_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    bars = []
    for method in summary.methods:
        if (OVERALL, method, metric) not in summary.means:
            continue
        by_scene: dict[str, list[float]] = {}
        for row in rows:
            if row["method"] == method:
                by_scene.setdefault(row["scene"], []).append(row[metric])
        values = [float(np.mean(each)) for each in by_scene.values()]
        bars.append(_bar(method, values, f"{method} {metric}"))
    return bar_chart(f"{metric}, all scenarios", bars) if bars else ""


def _gain_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    model = summary.methods[0]
    values = {(row["method"], row["scenario"], row["scene"]): row[metric] for row in rows}
    bars = []
    for scenario in summary.scenarios:
        gains = [
            value - values[BASELINE, scenario, scene]
            for (method, name, scene), value in values.items()
            if method == model and name == scenario and (BASELINE, name, scene) in values
        ]
        if gains:
            bars.append(_bar(plain_words(scenario), gains, f"{scenario} {metric}"))
    title = f"{metric}, {model} minus {BASELINE}"
    return bar_chart(title, bars, signed=True) if bars else ""


def _bar(label: str, values: Sequence[float], address: str) -> Bar:
    low, high = mean_interval(values, rng_at(0, address), num_resamples=_NUM_RESAMPLES)
    return Bar(label=label, mean=float(np.mean(values)), low=low, high=high)


def steps_part(steps: Mapping[int, Mapping[str, float]]) -> str:
    """Headline metrics by the number of sampling steps."""
    names = [name for name in HEADLINE if name in next(iter(steps.values()))]
    curves = {
        f"{name} by sampling steps": [
            (count, means[name]) for count, means in sorted(steps.items())
        ]
        for name in names
    }
    charts = "".join(curve_chart(name, points) for name, points in curves.items())
    return section(
        "Sampling steps",
        f'<div class="charts">{charts}</div>',
        note="Means over a few scenes under every scenario. The model was trained with one number "
        "of steps; it was not trained again for the others.",
    )


def points_part(points: Sequence[Point]) -> str:
    """The map of degradation priors."""
    dots = [Dot(x=p.x, y=p.y, group=p.condition, ring=p.camera == "ir") for p in points]
    return section(
        "Degradation priors",
        dot_map("t-SNE of the degradation priors", dots),
        note=f"t-SNE of {len(points)} pictures' degradation priors: discs visible, rings infrared. "
        "What suffers the same should lie together; distances between groups mean little.",
    )


def curves_part(curves: Mapping[str, Curve]) -> str:
    """The loss curves of the runs that made the model."""
    charts = "".join(curve_chart(name, points) for name, points in curves.items())
    return section(
        "Training curves",
        f'<div class="charts">{charts}</div>',
        note="Thin: as recorded. Bold: moving average over a twentieth of the run.",
    )
