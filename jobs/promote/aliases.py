"""How a version becomes champion: by whom, when, and the aliases with the history beside them."""

from __future__ import annotations

import shlex
import subprocess
from datetime import UTC, datetime
from typing import Any

from infra.settings import Settings, code_commit, who_runs
from jobs.console import print_facts
from jobs.promote.describe import describe_version
from pipelines.promotion.history import Event, below, champions, read_history


def move_champion(client: Any, lock: Any, name: str, event: Event, *, previous: str | None) -> None:
    """Announce the event, move the aliases, mark it finished: what dies in between shows.

    Raises ValueError when the lock was lost meanwhile; the aliases are then those of the history.
    """
    from infra.registry import model_versions as registry

    number = max(registry.read_events(client, name), default=0) + 1

    def write(what: Event) -> None:
        registry.write_event(client, name, number, what.model_dump(mode="json"), token=lock.token)

    try:
        lock.check()
        write(event)
        registry.set_champion_aliases(
            client, name, event.version, previous=previous, check=lock.check
        )
    except registry.LostLockError as lost:
        _give_way(client, name, event)
        raise ValueError(
            f"{lost}; its own changes were taken back; run the same command again"
        ) from lost
    write(event.model_copy(update={"finished": True}))


def _give_way(client: Any, name: str, event: Event) -> None:
    """Where `event` moved `champion` after it lost the lock, restore what the history holds."""
    from infra.registry import model_versions as registry

    events = read_history(name, registry.read_events(client, name))
    stack = champions([*events.values()])
    found = registry.find_alias(client, name, registry.CHAMPION)
    champion = str(found.version) if found else None
    if champion == event.version:
        champion = stack[-1] if stack else event.over
    elif champion not in stack:  # set by hand, or none: not ours to move
        return
    previous = below(stack, champion) if champion else None
    registry.set_champion_aliases(client, name, champion, previous=previous)


def rollback(settings: Settings, *, name: str, reason: str, break_lock: bool = False) -> Event:
    """Make the previous champion the champion again; a second one goes one further back in the history.

    Raises ValueError when there is no previous one, or another promotion is under way.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

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
        events = read_history(name, registry.read_events(client, name))
        before = below(champions([*events.values()]), target)
        move_champion(client, lock, name, event, previous=before)
        describe_version(client, name, target)
    print_facts({"champion": f"version {target}", "rolled back from": f"version {event.over}"})
    return event


def run_on_promotion(command: str | None, model: str) -> None:
    """Run a command with the new champion's URI as its last word; it may deploy it, or tell people.

    The champion stays the champion where the command fails. Raises ValueError then.
    """
    if command is None:
        return
    words = [*shlex.split(command), model]
    try:
        subprocess.run(words, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"{model} is the champion now, but the command of --on-promotion failed ({error}); run it "
            f"by hand when it is mended: {shlex.join(words)}"
        ) from error


def time_now() -> str:
    """UTC to the second, as the history keeps it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
