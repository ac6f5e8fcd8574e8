"""What `jobs.promote history` and `jobs.promote diff` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.settings import Settings
from jobs.console import print_line
from pipelines.promotion.evidence import EVALUATION, PARITY, PROGRAM, WEIGHTS
from pipelines.promotion.history import Event, read_history
from pipelines.results.rows import MODEL

_LINEAGE = (
    "recipe",
    "dataset_version",
    "dataset_digest",
    "init_from",
    "run_id",
    "git_commit",
    WEIGHTS,
    PROGRAM,
    PARITY,
    EVALUATION,
)


def show_history(settings: Settings, *, name: str) -> None:
    """Print every promotion and rollback of `name`, newest last. Raises ValueError without a model."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    events = read_history(name, registry.read_events(tracking.connect(settings), name))
    if not events:
        print_line(f"no version of {name!r} was promoted yet")
        return
    head = ["#", "when", "what", "version", "over", "who", "evidence", "why"]
    _print_table([head, *(_line(number, event) for number, event in events.items())])


def show_diff(settings: Settings, *, name: str, one: str, other: str) -> None:
    """Print two versions side by side: lineage, settings that differ, means over all scenarios.

    Raises ValueError when one does not exist.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    both = [registry.find_model(client, _uri(name, word)) for word in (one, other)]
    runs = [tracking.run_params_of(client, version.tags.get("run_id")) for version in both]
    means = [
        tracking.run_metrics_of(client, version.tags.get(EVALUATION), prefix=f"{MODEL}.")
        for version in both
    ]
    head = ["", *(f"version {version.version}" for version in both)]
    lineage = [_pair(tag, *(version.tags for version in both)) for tag in _LINEAGE]
    _print_table([head, *lineage])
    settings_of = [_pair(key, *runs) for key in dict.fromkeys([*runs[0], *runs[1]])]
    differing = [line for line in settings_of if line[1] != line[2]]
    print_line(f"\nsettings: {len(settings_of) - len(differing)} equal, {len(differing)} differ")
    _print_table(differing)
    print_line("\nmeans over all scenarios")
    _print_table([_pair(key, *means) for key in dict.fromkeys([*means[0], *means[1]])])


def _uri(name: str, word: str) -> str:
    return f"models:/{name}/{word}" if word.isdigit() else f"models:/{name}@{word}"


def _line(number: int, event: Event) -> list[str]:
    why = "; ".join(filter(None, (event.reason, *event.reasons)))
    return [
        str(number),
        event.at,
        event.action if event.finished else f"{event.action} (did not finish)",
        event.version,
        event.over or "-",
        event.by,
        event.evidence or "-",
        why or "no scenario worse than the gate tolerates",
    ]


def _pair(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key, *(_cell(values.get(key)) for values in (one, other))]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value in (None, "") else str(value)


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    if not lines:
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print_line("  " + "  ".join(cells).rstrip())
