"""The promotion gate: a pure decision over two sets of evaluation rows.

Rows are paired by (scene, scenario); rows that do not pair refuse, by name (`pairing`).

A *change* is the mean paired difference, challenger minus reference, divided by the reference's
mean, with its sign turned so that positive is better: -0.03 is 3 % worse. OVERALL first averages each
scene over its scenarios: one scene under fourteen scenarios is one observation, not fourteen. Where
scenarios have different numbers of scenes, OVERALL is not the mean of the scenarios' means.

`judge` is a test of non-inferiority. A challenger passes when it is shown, with 95 % confidence, that
it lost no more than `overall_margin` on any metric over all scenarios, and no more than
`scenario_margin` on any metric in any scenario. The lower bounds of all scenarios and metrics hold
together (`evaluation.confidence`), so that their number neither refuses nor passes a model by chance.
Too few scenes therefore refuse; they do not pass. How often it errs: `characteristics`.

Outcomes of one comparison, `bound` being its lower bound:

    better     the change's own interval is above zero
    equal      none of the others: a loss of the margin is excluded
    uncertain  the bound is below the margin, the interval reaches above it: more scenes would tell
    worse      the whole interval is below the margin
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.metrics import DIRECTION
from pipelines.promotion.paired_rows import Rows, key_of, pairing_refusals
from pipelines.results.confidence import mean_intervals
from pipelines.results.summaries import OVERALL, in_table_order
from pipelines.store.seeding import rng_at

Outcome = Literal["better", "equal", "uncertain", "worse"]


class GateConfig(BaseModel):
    """The compared metrics and the margins; shares are relative (0.03 = 3 %)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metrics: tuple[str, ...] = ("VIF", "Qabf", "MI", "SSIM")
    """What is compared with the champion, per scenario and overall."""
    overall_margin: float = Field(default=0.03, gt=0, lt=1)
    """Relative loss over all scenarios that has to be excluded (0.03 = 3 %)."""
    scenario_margin: float = Field(default=0.10, gt=0, lt=1)
    """Relative loss in one scenario that has to be excluded."""
    first_metrics: tuple[str, ...] = ("VIF", "Qabf")
    """A first version has to beat the baseline on all of these."""
    min_scenes: int = Field(default=20, ge=2)
    """Fewer scenes than this are no evidence."""
    num_resamples: int = Field(default=2000, ge=100, le=1_000_000)
    """Bootstrap samples of the intervals."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the bootstrap."""

    @property
    def watched(self) -> tuple[str, ...]:
        """The compared metrics, without duplicates."""
        return tuple(dict.fromkeys((*self.metrics, *self.first_metrics)))

    @field_validator("metrics", "first_metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in DIRECTION]
        if unknown or not names:
            raise ValueError(f"unknown metrics {unknown}; choose from {', '.join(DIRECTION)}")
        return names


class Comparison(BaseModel):
    """One metric under one scenario; `change`, `low`, `high`, `bound` are relative, positive is better.

    [low, high] is the change's own 95 % interval; `bound` holds together with those of its family
    (all metrics overall, or all metrics in all scenarios) and is what `margin` is compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: str
    metric: str
    num_scenes: int
    challenger: float
    reference: float
    change: float
    low: float
    high: float
    bound: float
    margin: float
    outcome: Outcome


class Verdict(BaseModel):
    """The decision, the reasons of a refusal, and all comparisons."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    rule: str
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def judge(
    challenger_rows: Rows, reference_rows: Rows, config: GateConfig, *, reference: str = "champion"
) -> Verdict:
    """Compare a challenger with the champion, or a former one: no loss may be as large as its margin.

    The challenger need not be better: an equal model with a newer dataset may replace the champion.
    """
    rule = f"not worse than the {reference} by the margin, overall and in every scenario"
    refusals = pairing_refusals(challenger_rows, reference_rows, config.watched, config.min_scenes)
    if refusals:
        return Verdict(passed=False, rule=rule, reasons=refusals, comparisons=())
    comparisons = (
        *_compare_overall(challenger_rows, reference_rows, config),
        *_compare_scenarios(challenger_rows, reference_rows, config),
    )
    reasons = tuple(
        _lost_reason(item, reference) for item in comparisons if item.bound < -item.margin
    )
    return Verdict(passed=not reasons, rule=rule, reasons=reasons, comparisons=comparisons)


def judge_first(challenger_rows: Rows, baseline_rows: Rows, config: GateConfig) -> Verdict:
    """Compare a first version with the source average, on the mean over all scenarios.

    It must be `better` on each of `first_metrics` and may not lose the margin on any watched metric.
    Both conditions are needed. The average has low VIF and Qabf on any pair; but the pixel-wise
    maximum of the degraded sources, which restores nothing, beats it on both and falls behind in SSIM
    (6 scenes of roadscene/val: VIF +17 %, Qabf +23 %, SSIM -6 %; the maximum of the clean sources would
    have SSIM +11 %).
    """
    rule = "better than the source average on the mean over all scenarios"
    refusals = pairing_refusals(challenger_rows, baseline_rows, config.watched, config.min_scenes)
    if refusals:
        return Verdict(passed=False, rule=rule, reasons=refusals, comparisons=())
    overall = _compare_overall(challenger_rows, baseline_rows, config)
    reasons = []
    for item in overall:
        if item.metric in config.first_metrics and item.outcome != "better":
            reasons.append(_not_better_reason(item))
        elif item.bound < -item.margin:
            reasons.append(_lost_reason(item, "source average"))
    comparisons = (*overall, *_compare_scenarios(challenger_rows, baseline_rows, config))
    return Verdict(passed=not reasons, rule=rule, reasons=tuple(reasons), comparisons=comparisons)


def best_reference(rows: Mapping[str, Rows], champion: str, metrics: Sequence[str]) -> str:
    """Which of some versions, by their rows of the same scenes, is best over all scenarios.

    By the mean of the metrics' changes from the champion; a tie is the champion's.
    """

    def gain(name: str) -> float:
        changes = [
            DIRECTION[metric] * (_mean(rows[name], metric) / base - 1)
            for metric in metrics
            if (base := _mean(rows[champion], metric))
        ]
        return float(np.mean(changes)) if changes else 0.0

    return max([champion, *rows], key=gain)


def _compare_overall(challenger: Rows, reference: Rows, config: GateConfig) -> list[Comparison]:
    ours, theirs = _by(challenger, "scene"), _by(reference, "scene")
    columns = {
        (OVERALL, metric): {
            scene: (_mean(ours[scene], metric), _mean(theirs[scene], metric)) for scene in ours
        }
        for metric in config.watched
    }
    return _compare(columns, config.overall_margin, config)


def _compare_scenarios(challenger: Rows, reference: Rows, config: GateConfig) -> list[Comparison]:
    ours, theirs = _by(challenger, "scenario"), _by(reference, "scenario")
    columns = {
        (scenario, metric): {
            mine["scene"]: (mine[metric], its[metric])
            for mine, its in zip(ours[scenario], theirs[scenario], strict=True)
        }
        for scenario in in_table_order(set(ours))
        for metric in config.watched
    }
    return _compare(columns, config.scenario_margin, config)


def _by(rows: Rows, field: str) -> dict[str, list[Mapping[str, Any]]]:
    """Group rows, sorted by (scene, scenario), so that two sets with the same keys line up."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=key_of):
        groups[row[field]].append(row)
    return groups


def _mean(rows: Rows, metric: str) -> float:
    return float(np.mean([row[metric] for row in rows]))


def _compare(
    columns: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]],
    margin: float,
    config: GateConfig,
) -> list[Comparison]:
    """Comparisons of a family: (challenger, reference) by scene, for each (scenario, metric)."""
    scenes = sorted({scene for column in columns.values() for scene in column})
    nothing = (np.nan, np.nan)
    values = np.array([[column.get(x, nothing) for column in columns.values()] for x in scenes])
    ours, theirs = np.nanmean(values, axis=0).T
    # A reference mean of 0 has no relative change; the change is then in the metric's own unit.
    scale = np.where(theirs == 0, 1, np.abs(theirs))
    signs = np.array([DIRECTION[metric] for _, metric in columns])
    changes = signs * (values[..., 0] - values[..., 1]) / scale  # scenes×columns
    rng = rng_at(config.seed, *sorted({scenario for scenario, _ in columns}))
    found = mean_intervals(changes, rng, num_resamples=config.num_resamples)
    return [
        Comparison(
            scenario=scenario,
            metric=metric,
            num_scenes=len(column),
            challenger=float(ours[i]),
            reference=float(theirs[i]),
            change=float(np.nanmean(changes[:, i])),
            low=float(found.low[i]),
            high=float(found.high[i]),
            bound=float(found.bound[i]),
            margin=margin,
            outcome=_outcome(found.low[i], found.high[i], found.bound[i], margin),
        )
        for i, ((scenario, metric), column) in enumerate(columns.items())
    ]


def _outcome(low: float, high: float, bound: float, margin: float) -> Outcome:
    if bound < -margin:
        return "worse" if high < -margin else "uncertain"
    return "better" if low > 0 else "equal"


def _lost_reason(item: Comparison, reference: str) -> str:
    where = "over all scenarios" if item.scenario == OVERALL else f"under {item.scenario}"
    sentence = f"{item.metric} {where} {_numbers(item)}"
    if item.outcome == "worse":
        return (
            f"{sentence}: more than the {item.margin:.0%} below the {reference} that are tolerated."
        )
    return (
        f"{sentence}: a loss of {item.margin:.0%} to the {reference} is not excluded "
        f"(bound {item.bound:+.1%}); evaluate on more scenes, or train on."
    )


def _not_better_reason(item: Comparison) -> str:
    return (
        f"{item.metric} over all scenarios {_numbers(item)}; the whole interval of a first "
        "version has to be above the source average: train longer or evaluate on more scenes."
    )


def _numbers(item: Comparison) -> str:
    verb = "fell" if item.challenger < item.reference else "went"
    return (
        f"{verb} from {item.reference:.4f} to {item.challenger:.4f} ({item.change:+.1%}, 95 % "
        f"interval {item.low:+.1%} to {item.high:+.1%}, {item.num_scenes} scenes)"
    )
