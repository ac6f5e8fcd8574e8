"""Means of evaluation rows, the worst cases, and a table of them for a terminal."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipelines.detection.boxes import average_precision
from pipelines.results.rows import AP, BETTER, DETECTIONS, EXTRAS, REFERENCE, Row
from pipelines.scenarios.table import TABLE

OVERALL = "overall"
HEADLINE: tuple[str, ...] = ("VIF", "Qabf", "MI", "SSIM")


@dataclass(frozen=True)
class Summary:
    """Means over scenes; `means[scenario, method, metric]`, OVERALL being the mean of scenarios.

    A method measured under only some scenarios has no mean for the others and none for OVERALL.
    """

    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    num_scenes: Mapping[str, int]
    means: Mapping[tuple[str, str, str], float]

    @property
    def headline(self) -> list[str]:
        """The headline metrics that were measured."""
        return [metric for metric in HEADLINE if metric in self.metrics]

    @property
    def extras(self) -> list[str]:
        """What was measured on request."""
        return [metric for metric in self.metrics if metric in EXTRAS]

    def best(self, scenario: str, metric: str) -> str | None:
        """Name the best method that has a mean; None for a tie or a single one."""
        sign = BETTER[metric]
        values = {
            method: sign * self.means[scenario, method, metric]
            for method in self.methods
            if not math.isnan(self.means.get((scenario, method, metric), math.nan))
        }
        leaders = [method for method, value in values.items() if value == max(values.values())]
        return leaders[0] if len(values) > 1 and len(leaders) == 1 else None


def summarise(rows: Sequence[Row]) -> Summary:
    """Mean of each metric per (scenario, method), and over scenarios with equal weight.

    Raises ValueError where means would not compare: repeated rows, methods measured on different
    scenes, or more than one metric version or reference kind.
    """
    _check_comparable(rows)
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    metrics = tuple(name for name in rows[0] if name in BETTER)
    metrics += (AP,) * (DETECTIONS in rows[0])
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["scenario"], row["method"]].append(row)
    scenarios = in_table_order({row["scenario"] for row in rows})
    means = _means(cells, scenarios, methods, metrics)
    num_scenes = {scenario: len(cells.get((scenario, methods[0]), ())) for scenario in scenarios}
    return Summary(scenarios, methods, metrics, num_scenes, means)


def by_dataset(rows: Sequence[Row]) -> dict[str, Summary]:
    """A summary of each data set's scenes, in order of name."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["dataset"]].append(row)
    return {name: summarise(parts[name]) for name in sorted(parts)}


def format_table(
    summary: Summary, *, model: str, baseline: str, metrics: Sequence[str] = HEADLINE
) -> list[str]:
    """Lines of an aligned table: the model's mean and, in brackets, its gain on the baseline."""
    for method in (model, baseline):
        if method not in summary.methods:
            raise ValueError(f"no rows of method {method!r}; known: {', '.join(summary.methods)}")
    lines = [["scenario", "scenes", *metrics]]
    for scenario in (*summary.scenarios, OVERALL):
        num_scenes = str(summary.num_scenes.get(scenario, ""))
        cells = [_cell(summary, scenario, metric, model, baseline) for metric in metrics]
        lines.append([scenario, num_scenes, *cells])
    text = _align(lines)
    rule = "-" * len(text[0])
    title = f"{model}, in brackets the difference from {baseline} (reference: {REFERENCE})"
    return [title, text[0], rule, *text[1:-1], rule, text[-1]]


def format_datasets(
    summaries: Mapping[str, Summary],
    *,
    model: str,
    baseline: str,
    metrics: Sequence[str] = HEADLINE,
) -> list[str]:
    """Lines of an aligned table like `format_table`, with the overall means of each data set."""
    lines = [["dataset", "scenes", *metrics]]
    for name, summary in summaries.items():
        cells = [_cell(summary, OVERALL, metric, model, baseline) for metric in metrics]
        lines.append([name, str(max(summary.num_scenes.values())), *cells])
    head, *body = _align(lines)
    return [head, "-" * len(head), *body]


def worst_cases(
    rows: Sequence[Row], *, metrics: Sequence[str], model: str, baseline: str, count: int
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Find where the model is farthest behind the baseline: (scene, scenario) -> metrics.

    Takes `count` rows per metric; a row among the worst on several metrics comes once.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for metric in metrics:
        values: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
        for row in rows:
            values[row["method"]][row["scene"], row["scenario"]] = BETTER[metric] * row[metric]
        gains = {key: value - values[baseline][key] for key, value in values[model].items()}
        for key in sorted(gains, key=lambda key: (gains[key], key))[:count]:
            found[key] = (*found.get(key, ()), metric)
    return found


def in_table_order(names: set[str]) -> tuple[str, ...]:
    """Sort scenario names in the order of TABLE; unknown names come last."""
    known = [scenario.name for scenario in TABLE if scenario.name in names]
    return (*known, *sorted(names.difference(known)))


def _means(
    cells: Mapping[tuple[str, str], Sequence[Row]],
    scenarios: Sequence[str],
    methods: Sequence[str],
    metrics: Sequence[str],
) -> dict[tuple[str, str, str], float]:
    means = {}
    for method, metric in product(methods, metrics):
        each = {
            name: _of_cell(cells[name, method], metric)
            for name in scenarios
            if (name, method) in cells
        }
        means.update({(name, method, metric): mean for name, mean in each.items()})
        if len(each) == len(scenarios):
            means[OVERALL, method, metric] = _mean(list(each.values()))
    return means


def _of_cell(rows: Sequence[Row], metric: str) -> float:
    """A method's mean under a scenario; NaN where no row has a value."""
    if metric == AP:
        return average_precision([row[DETECTIONS] for row in rows if row[DETECTIONS] is not None])
    values = [row[metric] for row in rows]
    if metric in EXTRAS:
        # A first frame has no flicker, a picture of nothing no agreement.
        values = [value for value in values if not math.isnan(value)]
    return _mean(values) if values else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _check_comparable(rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("no rows to summarise; evaluate at least one scene")
    kinds = {(row["metric_version"], row["reference"]) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"rows mix (metric version, reference) {sorted(kinds)}; evaluate again")
    counts = Counter((row["method"], row["scene"], row["scenario"]) for row in rows)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} rows are repeated, the first is {repeated[0]}")
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for method, scene, scenario in counts:
        seen[scenario, method].add(scene)
    for (scenario, method), scenes in seen.items():
        everything = set().union(*(seen[key] for key in seen if key[0] == scenario))
        if scenes != everything:
            first = (min(everything - scenes), scenario)
            raise ValueError(
                f"method {method!r} was not measured on {first}; evaluate it there too"
            )


def _cell(summary: Summary, scenario: str, metric: str, model: str, baseline: str) -> str:
    value = summary.means[scenario, model, metric]
    return f"{value:.4f} ({value - summary.means[scenario, baseline, metric]:+.4f})"


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
