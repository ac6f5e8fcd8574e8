"""How a version becomes champion: by whom, when, and the aliases with the history beside them."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import UTC, datetime
from typing import Any

from infra.settings import Settings, code_commit
from jobs.console import facts
from pipelines.history import Event, below, champions


def move_champion(client: Any, lock: Any, name: str, event: Event, *, previous: str | None) -> None:
    """Announce the event, move the aliases, mark it finished: what dies in between shows."""
    from infra import registry

    number = max(registry.read_events(client, name), default=0) + 1
    lock.check()
    registry.write_event(client, name, number, event.model_dump(mode="json"))
    registry.move_champion(client, name, event.version, previous=previous)
    finished = event.model_copy(update={"finished": True})
    registry.write_event(client, name, number, finished.model_dump(mode="json"))


def rollback(settings: Settings, *, name: str, reason: str, break_lock: bool = False) -> Event:
    """Make the previous champion the champion again; a second one goes one further back.

    Raises ValueError when there is no previous one, or another promotion is under way.
    """
    from infra import registry, tracking

    client = tracking.connect(settings)
    registry.read_events(client, name)  # a misspelt name needs no lock
    with registry.promotion_lock(client, name, holder=who_runs(), break_lock=break_lock) as lock:
        champion = registry.find_alias(client, name, registry.CHAMPION)
        previous = registry.find_alias(client, name, registry.PREVIOUS)
        if champion is None:
            raise ValueError(f"{name!r} has no champion to roll back from")
        if previous is None or previous.version == champion.version:
            raise ValueError(
                f"no champion of {name!r} came before version {champion.version}; to put another "
                f"one there: python -m jobs.promote {name} --version N"
            )
        target = str(previous.version)
        event = Event(
            action="rollback",
            version=target,
            over=str(champion.version),
            by=who_runs(),
            at=time_now(),
            commit=code_commit(),
            reason=reason,
        )
        events = [Event(**event) for event in registry.read_events(client, name).values()]
        move_champion(client, lock, name, event, previous=below(champions(events), target))
    facts({"champion": f"version {target}", "rolled back from": f"version {event.over}"})
    return event


def who_runs() -> str:
    """User, machine and process, as the history keeps them."""
    try:
        user = getpass.getuser()
    except KeyError:  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def time_now() -> str:
    """UTC to the second, as the history keeps it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
