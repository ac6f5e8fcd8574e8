"""Charts of the evaluation report: bars of means and gains, and the map of degradation priors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipelines.probes.latents import Point
from pipelines.reports.charts import Bar, BarChart
from pipelines.reports.filters import sentence
from pipelines.results.confidence import mean_interval
from pipelines.results.rows import BASELINE
from pipelines.results.summaries import OVERALL, Summary
from pipelines.store.seeding import rng_at

_NUM_RESAMPLES = 1000
_MAP, _PAD = 420, 14
# Distinct on light and dark pages and for most colour vision; the mark's shape shows the camera.
# fmt: off
_HUES = (
    "#2457c5", "#c2571a", "#17713a", "#8a3fa8", "#b08a00", "#0f8a94",
    "#a9271c", "#6b6f76", "#5b8def", "#e39a63", "#63b37f", "#c58be0",
)
# fmt: on


def bar_charts(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> list[BarChart]:
    """For each headline metric the means of the methods; then the model's gains on the baseline."""
    charts = [
        BarChart(f"{metric}, all scenarios", list(_mean_bars(summary, rows, metric)))
        for metric in summary.headline
    ]
    if BASELINE in summary.methods[1:]:
        charts += [
            BarChart(
                f"{metric}, {summary.methods[0]} minus {BASELINE}",
                list(_gain_bars(summary, rows, metric)),
                signed=True,
            )
            for metric in summary.headline
        ]
    return [chart for chart in charts if chart.bars]


def _mean_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> Iterator[Bar]:
    """The methods that were measured under every scenario; a scene's mean is one observation."""
    for method in summary.methods:
        if (OVERALL, method, metric) in summary.means:
            by_scene: dict[str, list[float]] = defaultdict(list)
            for row in rows:
                if row["method"] == method:
                    by_scene[row["scene"]].append(row[metric])
            values = [float(np.mean(each)) for each in by_scene.values()]
            yield _bar(method, values, f"{method} {metric}")


def _gain_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> Iterator[Bar]:
    """What the model gains on the baseline, by scenario."""
    values = {(row["method"], row["scenario"], row["scene"]): row[metric] for row in rows}
    for scenario in summary.scenarios:
        gains = [
            value - values[BASELINE, scenario, scene]
            for (method, name, scene), value in values.items()
            if (method, name) == (summary.methods[0], scenario)
            and (BASELINE, scenario, scene) in values
        ]
        if gains:
            yield _bar(sentence(scenario), gains, f"{scenario} {metric}")


def _bar(label: str, values: Sequence[float], address: str) -> Bar:
    low, high = mean_interval(values, rng_at(0, address), num_resamples=_NUM_RESAMPLES)
    return Bar(label, float(np.mean(values)), low, high)


@dataclass(frozen=True)
class Mark:
    """A disc or a ring of a map, at (x, y)."""

    x: float
    y: float
    colour: str
    ring: bool


@dataclass(frozen=True)
class PointMap:
    """Points on a square, and a mark for each group of them."""

    marks: Sequence[Mark]
    legend: Sequence[tuple[str, Mark]]
    size: ClassVar[int] = _MAP


def map_of_points(points: Sequence[Point]) -> PointMap:
    """A colour for each condition; discs are visible pictures, rings infrared ones."""
    groups = sorted({(point.condition, point.camera == "ir") for point in points})
    colours = {group: _HUES[i % len(_HUES)] for i, group in enumerate(groups)}
    xs = _spread([point.x for point in points])
    ys = _spread([point.y for point in points])
    marks = []
    for point, x, y in zip(points, xs, ys, strict=True):
        group = point.condition, point.camera == "ir"
        marks.append(Mark(x, y, colours[group], group[1]))
    legend = [(name, Mark(6, 6, colours[name, ring], ring)) for name, ring in groups]
    return PointMap(marks, legend)


def _spread(values: Sequence[float]) -> list[float]:
    """Stretch values over the side of the map."""
    low, high = min(values), max(values)
    span = high - low if high > low and math.isfinite(high - low) else 1.0
    return [_PAD + (_MAP - 2 * _PAD) * (value - low) / span for value in values]
