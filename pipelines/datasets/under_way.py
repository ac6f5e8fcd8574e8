"""Who works in a datasets folder now, so that generations and the collection of garbage cannot cross.

<root>/underway/generate-<id>.json     the shards that a generation needs, made or not yet
<root>/underway/gc-<id>.json           a collection of garbage

Both are renewed by heartbeats. A generation writes its record, then waits for collections; a collection
writes its record, then reads what generations need: whoever comes second sees the other. The same
holds again just before a version is published. Ages are differences of the store's own times.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.store.folders import Entry, Folder

Kind = Literal["generate", "gc"]
HEARTBEAT_S = 60.0
# Without a heartbeat for so long, a process is taken for dead.
LIFE_S = 600.0
_FOLDER = "underway/"
_POLL_S = 5.0


class Record(BaseModel):
    """What a process is about: since when (ISO 8601), and the names of the shards that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str
    since: str
    shards: tuple[str, ...] = ()


class Announcement:
    """The record of this process; it counts while it is renewed."""

    def __init__(self, root: Folder, kind: Kind, who: str) -> None:
        self._root, self._name = root, f"{_FOLDER}{kind}-{uuid.uuid4().hex}.json"
        self._record = Record(who=who, since=datetime.now(UTC).isoformat(timespec="seconds"))
        self._renewed_s = 0.0

    def renew(self) -> None:
        """Write the record."""
        self._root.replace(self._name, self._record.model_dump_json().encode())
        self._renewed_s = time.time()

    def send_heartbeat(self) -> None:
        """Renew it; a store that does not answer may do so the next time."""
        try:
            self.renew()
        except OSError as error:
            warnings.warn(f"{self._root.uri}: no heartbeat ({error})", stacklevel=2)

    def need(self, shards: Iterable[str]) -> None:
        """Add names of shards that must stay."""
        names = tuple(sorted({*self._record.shards, *shards}))
        self._record = self._record.model_copy(update={"shards": names})
        self.renew()

    def check_alive(self) -> None:
        """Raise ValueError when others may take this process for dead: it slept, or the store was away."""
        if time.time() - self._renewed_s > LIFE_S / 2:
            raise ValueError(
                f"{self._root.uri}: no heartbeat for {LIFE_S / 2:.0f} s; run the same command again"
            )

    def others(self, kind: Kind) -> list[Record]:
        """The records of a kind whose processes are alive."""
        return [record for record in map(self._read, self._entries(kind, alive=True)) if record]

    def dead(self) -> list[Entry]:
        """Records that dead processes left."""
        return [*self._entries("generate", alive=False), *self._entries("gc", alive=False)]

    def wait_for_collections(self, log: Callable[[str], None], *, poll_s: float = _POLL_S) -> None:
        """Return when no collection of garbage is under way that may not know of this process."""
        logged = False
        while others := self.others("gc"):
            if not logged:
                log(f"  waiting for the collection of garbage by {others[0].who}")
                logged = True
            time.sleep(poll_s)

    def end(self) -> None:
        """Delete the record; where the store does not answer it counts as dead later."""
        try:
            for entry in self._root.entries(self._name):
                self._root.delete(entry)
        except OSError as error:
            warnings.warn(f"{self._root.uri}/{self._name} is left ({error})", stacklevel=2)

    def _entries(self, kind: Kind, *, alive: bool) -> list[Entry]:
        self.renew()
        entries = {entry.name: entry for entry in self._root.entries(_FOLDER)}
        now_s = entries.pop(self._name).modified_s
        return [
            entry
            for name, entry in entries.items()
            if name.startswith(f"{_FOLDER}{kind}-") and (now_s - entry.modified_s < LIFE_S) == alive
        ]

    def _read(self, entry: Entry) -> Record | None:
        """None when the process ended since it was listed."""
        try:
            return Record.model_validate_json(self._root.read(entry.name))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ValueError(f"{self._root.uri}/{entry.name}: not a record ({error})") from error


@contextmanager
def announced(root: Folder, kind: Kind, who: str) -> Iterator[Announcement]:
    """Announce this process for the block. The caller sends heartbeats, every `HEARTBEAT_S`."""
    announcement = Announcement(root, kind, who)
    announcement.renew()
    try:
        yield announcement
    finally:
        announcement.end()
