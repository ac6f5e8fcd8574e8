"""The sentence that an evaluation's page opens with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.metrics import DIRECTION
from pipelines.results.confidence import mean_interval
from pipelines.results.rows import BASELINE
from pipelines.results.summaries import OVERALL, Summary
from pipelines.store.seeding import rng_at

_NUM_RESAMPLES = 1000
Rows = Sequence[Mapping[str, Any]]


def verdict(summary: Summary, rows: Rows) -> str:
    """How the first method does against the baseline by each headline metric, and who leads."""
    model, *others = summary.methods
    parts = [_against_baseline(summary, rows)] if BASELINE in others else []
    rivals = [name for name in others if (OVERALL, name, summary.metrics[0]) in summary.means]
    if len(rivals) > 1 and summary.headline:
        parts.append(_leaders(summary, model, 1 + len(rivals)))
    return " ".join(parts)


def _against_baseline(summary: Summary, rows: Rows) -> str:
    found: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    for metric in summary.headline:
        gains = _gains(rows, summary.methods[0], metric)
        low, high = mean_interval(gains, rng_at(0, metric), num_resamples=_NUM_RESAMPLES)
        found["better" if low > 0 else "worse" if high < 0 else "not told apart"].append(metric)
    said = [f"{word} on {_listed(names)}" for word, names in found.items() if names]
    num_scenes = len({row["scene"] for row in rows})
    scenarios = len(summary.scenarios)
    return (
        f"Against the {BASELINE} of the sources the model is {_listed(said)} "
        f"({scenarios} scenario{'s' * (scenarios > 1)}; 95 % intervals over "
        f"{num_scenes} scene{'s' * (num_scenes > 1)})."
    )


def _gains(rows: Rows, model: str, metric: str) -> list[float]:
    """What the model gains on the baseline, a scene's mean over its scenarios; positive is better."""
    values = {(row["method"], row["scene"], row["scenario"]): row[metric] for row in rows}
    by_scene: dict[str, list[float]] = defaultdict(list)
    for (method, scene, scenario), value in values.items():
        if method == model:
            gain = DIRECTION[metric] * (value - values[BASELINE, scene, scenario])
            by_scene[scene].append(gain)
    return [float(np.mean(gains)) for gains in by_scene.values()]


def _leaders(summary: Summary, model: str, num_methods: int) -> str:
    first = {metric: summary.best(OVERALL, metric) for metric in summary.headline}
    ours = [metric for metric, method in first.items() if method == model]
    others = dict.fromkeys(method for method in first.values() if method not in (None, model))
    theirs = [
        f"{other} on {_listed([metric for metric, method in first.items() if method == other])}"
        for other in others
    ]
    said = f"it is first on {_listed(ours)}" if ours else "it is first on none"
    rest = f"; {'; '.join(theirs)}" if theirs else ""
    return f"Of {num_methods} methods measured in every scenario {said}{rest}."


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
