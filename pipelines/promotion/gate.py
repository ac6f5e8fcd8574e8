"""The promotion gate: a pure decision over two sets of evaluation rows.

Rows are paired by (scene, scenario). The gate refuses rows that do not pair and names them: a row
on one side only, a different metric version, reference kind or image size, a repeated row, a value
that is missing or not finite. No row is skipped silently.

A *change* is the mean paired difference, challenger minus reference, divided by the reference's
mean, with its sign turned so that positive is better: -0.03 is 3 % worse. Its 95 % confidence
interval is a percentile bootstrap over scenes. OVERALL first averages each scene over its
scenarios and then resamples scenes: one scene under fourteen scenarios is one observation, not
fourteen. Where scenarios have different numbers of scenes, OVERALL is not the mean of the
scenarios' means.

Outcomes of one comparison under `judge` (default tolerance 2 %, hard limit 10 %):

    better     the interval is above zero
    equal      none of the others: the change is within the tolerance
    uncertain  worse than the tolerance, but the interval reaches zero; passes, and is listed
    worse      worse than the tolerance and the interval is below zero; or worse than the hard
               limit, whatever the interval: so large a loss has to be disproved, not proved

The tolerance keeps dozens of comparisons from refusing by chance; there is no other correction
for multiple comparisons. The tolerance on OVERALL is tighter (0.5 %), so that a series of
promotions cannot lose 2 % each.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.metrics import DIRECTION
from pipelines.evaluation.confidence import mean_interval
from pipelines.evaluation.summaries import OVERALL, in_table_order
from pipelines.store.seeding import rng_at

Outcome = Literal["better", "equal", "uncertain", "worse"]
Rows = Sequence[Mapping[str, Any]]
Key = tuple[str, str]  # scene, scenario

# Fields that must agree before two rows may be compared.
_SAME = ("metric_version", "reference", "width", "height")


class GateConfig(BaseModel):
    """The compared metrics and the tolerated losses; shares are relative (0.02 = 2 %)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metrics: tuple[str, ...] = ("VIF", "Qabf", "MI", "SSIM")
    """What is compared with the champion, per scenario and overall."""
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    """Relative loss in a scenario that passes (0.02 = 2 %)."""
    overall_tolerance: float = Field(default=0.005, ge=0, lt=1)
    """Relative loss over all scenarios that passes."""
    hard_limit: float = Field(default=0.10, gt=0, lt=1)
    """Relative loss that refuses, however wide its interval is."""
    first_metrics: tuple[str, ...] = ("VIF", "Qabf")
    """A first version has to beat the baseline on all of these."""
    min_scenes: int = Field(default=3, ge=2)
    """Fewer scenes than this are no evidence."""
    num_resamples: int = Field(default=2000, ge=100)
    """Bootstrap samples of an interval."""
    seed: int = Field(default=0, ge=0)
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
    """One metric under one scenario; `change`, `low`, `high` are relative, positive is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: str
    metric: str
    num_scenes: int
    challenger: float
    reference: float
    change: float
    low: float
    high: float
    outcome: Outcome


class Verdict(BaseModel):
    """The decision, the reasons of a refusal, and all comparisons."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    rule: str
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def judge(challenger_rows: Rows, reference_rows: Rows, config: GateConfig) -> Verdict:
    """Compare challenger and champion: neither a scenario nor OVERALL may be `worse`.

    The challenger need not be better: an equal model with a newer dataset may replace the champion.
    """
    rule = "no scenario may be worse than the champion"
    refusals = _pairing_refusals(challenger_rows, reference_rows, config.watched, config.min_scenes)
    if refusals:
        return Verdict(passed=False, rule=rule, reasons=refusals, comparisons=())
    comparisons = (
        *_compare_overall(challenger_rows, reference_rows, config, config.overall_tolerance),
        *_compare_scenarios(challenger_rows, reference_rows, config),
    )
    reasons = tuple(
        _worse_reason(item, config, config.overall_tolerance)
        for item in comparisons
        if item.outcome == "worse"
    )
    return Verdict(passed=not reasons, rule=rule, reasons=reasons, comparisons=comparisons)


def judge_first(challenger_rows: Rows, baseline_rows: Rows, config: GateConfig) -> Verdict:
    """Compare a first version with the source average, on the mean over all scenarios.

    It must be `better` on each of `first_metrics` and not `worse` than `tolerance` on any watched
    metric. Both conditions are needed. The average has low VIF and Qabf on any pair; but the
    pixel-wise maximum of the degraded sources, which restores nothing, beats it on both and
    falls behind in SSIM (6 scenes of roadscene/val: VIF +17 %, Qabf +23 %, SSIM -6 %; the maximum of the
    clean sources would have SSIM +11 %).
    """
    rule = "better than the source average on the mean over all scenarios"
    refusals = _pairing_refusals(challenger_rows, baseline_rows, config.watched, config.min_scenes)
    if refusals:
        return Verdict(passed=False, rule=rule, reasons=refusals, comparisons=())
    overall = _compare_overall(challenger_rows, baseline_rows, config, config.tolerance)
    reasons = []
    for item in overall:
        if item.metric in config.first_metrics and item.outcome != "better":
            reasons.append(_not_better_reason(item))
        elif item.outcome == "worse":
            reasons.append(_worse_reason(item, config, config.tolerance))
    comparisons = (*overall, *_compare_scenarios(challenger_rows, baseline_rows, config))
    return Verdict(passed=not reasons, rule=rule, reasons=tuple(reasons), comparisons=comparisons)


def _pairing_refusals(
    challenger: Rows, reference: Rows, metrics: Sequence[str], min_scenes: int
) -> tuple[str, ...]:
    refusals = [
        *_set_refusals("challenger", challenger, metrics),
        *_set_refusals("reference", reference, metrics),
    ]
    if not refusals:
        refusals = [
            *_unpaired(challenger, reference, "the reference", "the challenger"),
            *_unpaired(reference, challenger, "the challenger", "the reference"),
            *_disagreeing(challenger, reference),
        ]
    return tuple(refusals or _too_few(challenger, min_scenes))


def _set_refusals(name: str, rows: Rows, metrics: Sequence[str]) -> list[str]:
    if not rows:
        return [f"The {name} has no evaluation rows; evaluate it first."]
    refusals = []
    methods = sorted({row["method"] for row in rows})
    if len(methods) > 1:
        refusals.append(
            f"The {name}'s rows mix methods {', '.join(methods)}; pass the rows of one."
        )
    repeated = [key for key, count in Counter(map(_key, rows)).items() if count > 1]
    if repeated:
        refusals.append(
            f"The {name} has more than one row for {_shown(repeated)}; keep one of each."
        )
    for metric in metrics:
        bad = [_key(row) for row in rows if not _is_number(row.get(metric))]
        if bad:
            refusals.append(
                f"{metric} of the {name} is missing or not finite for {_shown(bad)}; "
                "check those images and evaluate again."
            )
    return refusals


def _unpaired(rows: Rows, others: Rows, without: str, owner: str) -> list[str]:
    missing = sorted(set(map(_key, rows)) - set(map(_key, others)))
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(rows)} rows of {owner} have no partner in those of {without}: "
        f"{_shown(missing)}; evaluate both on the same scenes and scenarios."
    ]


def _disagreeing(challenger: Rows, reference: Rows) -> list[str]:
    partners = {_key(row): row for row in reference}
    refusals = []
    for field in _SAME:
        pairs = [
            (_key(row), row[field], partners[_key(row)][field])
            for row in challenger
            if _key(row) in partners and row[field] != partners[_key(row)][field]
        ]
        if pairs:
            _, ours, theirs = pairs[0]
            refusals.append(
                f"{field} differs (challenger {ours!r}, reference {theirs!r}) for "
                f"{_shown([key for key, _, _ in pairs])}; evaluate both with the same code and data."
            )
    return refusals


def _too_few(rows: Rows, min_scenes: int) -> list[str]:
    counts = Counter(row["scenario"] for row in rows)
    few = {name: count for name, count in sorted(counts.items()) if count < min_scenes}
    if not few:
        return []
    shown = ", ".join(f"{name} ({count})" for name, count in few.items())
    return [
        f"Fewer than {min_scenes} scenes, too few to decide, in: {shown}; "
        "evaluate on more scenes or lower min_scenes."
    ]


def _compare_overall(
    challenger: Rows, reference: Rows, config: GateConfig, tolerance: float
) -> list[Comparison]:
    ours, theirs = _by(challenger, "scene"), _by(reference, "scene")
    comparisons = []
    for metric in config.watched:
        pairs = [(_mean(ours[scene], metric), _mean(theirs[scene], metric)) for scene in ours]
        comparisons.append(_compare(OVERALL, metric, pairs, tolerance, config))
    return comparisons


def _compare_scenarios(challenger: Rows, reference: Rows, config: GateConfig) -> list[Comparison]:
    ours, theirs = _by(challenger, "scenario"), _by(reference, "scenario")
    comparisons = []
    for scenario, metric in product(in_table_order(set(ours)), config.watched):
        pairs = [
            (mine[metric], its[metric])
            for mine, its in zip(ours[scenario], theirs[scenario], strict=True)
        ]
        comparisons.append(_compare(scenario, metric, pairs, config.tolerance, config))
    return comparisons


def _by(rows: Rows, field: str) -> dict[str, list[Mapping[str, Any]]]:
    """Group rows, sorted by (scene, scenario), so that two sets with the same keys line up."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=_key):
        groups[row[field]].append(row)
    return groups


def _mean(rows: Rows, metric: str) -> float:
    return float(np.mean([row[metric] for row in rows]))


def _compare(
    scenario: str,
    metric: str,
    pairs: Sequence[tuple[float, float]],
    tolerance: float,
    config: GateConfig,
) -> Comparison:
    ours, theirs = np.array(pairs).T
    reference = float(theirs.mean())
    # A reference mean of 0 has no relative change; the change is then in the metric's own unit.
    scale = abs(reference) or 1.0
    changes = DIRECTION[metric] * (ours - theirs) / scale
    rng = rng_at(config.seed, scenario, metric)
    low, high = mean_interval(changes, rng, num_resamples=config.num_resamples)
    change = float(changes.mean())
    return Comparison(
        scenario=scenario,
        metric=metric,
        num_scenes=len(pairs),
        challenger=float(ours.mean()),
        reference=reference,
        change=change,
        low=low,
        high=high,
        outcome=_outcome(change, low, high, tolerance, config.hard_limit),
    )


def _outcome(change: float, low: float, high: float, tolerance: float, hard: float) -> Outcome:
    if change < -hard or (change < -tolerance and high < 0):
        return "worse"
    if change < -tolerance:
        return "uncertain"
    return "better" if low > 0 else "equal"


def _worse_reason(item: Comparison, config: GateConfig, overall_tolerance: float) -> str:
    tolerance = overall_tolerance if item.scenario == OVERALL else config.tolerance
    where = "over all scenarios" if item.scenario == OVERALL else f"under {item.scenario}"
    sentence = f"{item.metric} {where} {_numbers(item)}; {tolerance:.1%} is tolerated"
    if item.high >= 0:
        return (
            f"{sentence} and the interval reaches zero, but the change is beyond the hard limit of "
            f"{config.hard_limit:.0%}: evaluate on more scenes."
        )
    return f"{sentence}."


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


def _key(row: Mapping[str, Any]) -> Key:
    return row["scene"], row["scenario"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(keys: Sequence[Key], *, most: int = 3) -> str:
    text = ", ".join(f"{scene}/{scenario}" for scene, scenario in keys[:most])
    return text + (f" and {len(keys) - most} more" if len(keys) > most else "")
