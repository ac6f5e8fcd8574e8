"""The history of a model's champions: what each promotion and rollback did, and what it undoes.

Events are append-only; an event is written before the aliases move and marked finished after, so that
one that died in between shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

_MAX_REASON_CHARS, _MOST_REASONS = 300, 5


class Event(BaseModel):
    """One move of the alias `champion`: to `version`, from `over` (None: there was no champion).

    `evidence` is the evaluation run that it was judged by, `rows_sha256` the digest of its rows.
    `reasons` are the gate's objections that `force` overrode; `reason` is the person's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["promote", "force", "rollback"]
    version: str
    over: str | None
    by: str
    at: str
    commit: str
    reason: str | None = None
    reasons: tuple[str, ...] = ()
    evidence: str | None = None
    rows_sha256: str | None = None
    finished: bool = False


def read_history(name: str, found: Mapping[int, Any]) -> dict[int, Event]:
    """The events of the model `name`, from what its tags hold, by number. Raises ValueError, naming one."""
    events = {}
    for number, value in found.items():
        try:
            events[number] = Event.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
            raise ValueError(
                f"promotion event {number} of {name!r} is not ours ({what}); correct that tag of the "
                f"registered model {name}.promotions in MLflow, or delete it"
            ) from error
    return events


def shortened(reasons: Sequence[str]) -> tuple[str, ...]:
    """The first few reasons, cut to fit into a tag, and how many are left out."""
    kept = [reason[:_MAX_REASON_CHARS] for reason in reasons[:_MOST_REASONS]]
    left_out = len(reasons) - len(kept)
    return (*kept, f"and {left_out} more") if left_out else tuple(kept)


def champions(events: Sequence[Event]) -> list[str]:
    """The versions that were champion and would be again, one rollback after another; newest last."""
    stack: list[str] = []
    for event in events:
        if not event.finished:
            continue
        if event.action == "rollback" and event.version in stack:
            del stack[_last(stack, event.version) + 1 :]
        else:
            # An alias that someone set by hand is no event, but the champion it left is known.
            stack += [event.over] if event.over and stack[-1:] != [event.over] else []
            stack.append(event.version)
    return stack


def below(stack: Sequence[str], version: str) -> str | None:
    """Which version a rollback from `version` would go to; None when there is none."""
    if version not in stack:
        return None
    place = _last(stack, version)
    return stack[place - 1] if place else None


def _last(stack: Sequence[str], version: str) -> int:
    return len(stack) - 1 - list(reversed(stack)).index(version)
