"""Which sets of evaluation rows may be compared at all: sentences about those that may not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.store.names import first_few

Rows = Sequence[Mapping[str, Any]]
Key = tuple[str, str]  # scene, scenario

# Fields that must agree before two rows may be compared.
_SAME = ("metric_version", "protocol", "reference", "width", "height")


def key_of(row: Mapping[str, Any]) -> Key:
    """What pairs two rows: scene and scenario."""
    return row["scene"], row["scenario"]


def pairing_refusals(
    challenger: Rows, reference: Rows, metrics: Sequence[str], min_scenes: int
) -> tuple[str, ...]:
    """Sentences about rows without a partner, repeated, not finite, of other code, or too few."""
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
    repeated = [key for key, count in Counter(map(key_of, rows)).items() if count > 1]
    if repeated:
        refusals.append(
            f"The {name} has more than one row for {_shown(repeated)}; keep one of each."
        )
    for metric in metrics:
        bad = [key_of(row) for row in rows if not _is_number(row.get(metric))]
        if bad:
            refusals.append(
                f"{metric} of the {name} is missing or not finite for {_shown(bad)}; "
                "check those images and evaluate again."
            )
    return refusals


def _unpaired(rows: Rows, others: Rows, without: str, owner: str) -> list[str]:
    missing = sorted(set(map(key_of, rows)) - set(map(key_of, others)))
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(rows)} rows of {owner} have no partner in those of {without}: "
        f"{_shown(missing)}; evaluate both on the same scenes and scenarios."
    ]


def _disagreeing(challenger: Rows, reference: Rows) -> list[str]:
    partners = {key_of(row): row for row in reference}
    refusals = []
    for field in _SAME:
        pairs = [
            (key_of(row), row[field], partners[key_of(row)][field])
            for row in challenger
            if key_of(row) in partners and row[field] != partners[key_of(row)][field]
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(keys: Sequence[Key]) -> str:
    return first_few([f"{scene}/{scenario}" for scene, scenario in keys])
