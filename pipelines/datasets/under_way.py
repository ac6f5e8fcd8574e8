"""Who works in a datasets folder now, so that generations and the collection of garbage cannot cross.

<root>/underway/generate-<id>.json     the shards that a generation needs, made or not yet
<root>/underway/gc-<id>.json           a collection of garbage
<root>/underway/gc.json                the collection that wrote last: found without the right to list

All are renewed by heartbeats. A generation writes its record, then waits for collections; a collection
writes its records, then reads what generations need: whoever comes second sees the other. The same
holds again just before a version is published. Ages are differences of the store's own times.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.store.folders import Entry, Folder

Kind = Literal["generate", "gc"]
HEARTBEAT_S = 60.0
# Without a heartbeat for so long, a process is taken for dead.
LIFE_S = 600.0
_FOLDER = "underway/"
_COLLECTION = f"{_FOLDER}gc.json"
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
        self._root, self._kind = root, kind
        self._name = f"{_FOLDER}{kind}-{uuid.uuid4().hex}.json"
        self._record = Record(who=who, since=datetime.now(UTC).isoformat(timespec="seconds"))
        self._renewed_s = 0.0

    def renew(self) -> None:
        """Write the record."""
        for name in (*([_COLLECTION] if self._kind == "gc" else []), self._name):
            self._root.replace(name, self._record.model_dump_json().encode())
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

    def generations(self) -> list[Record]:
        """The records of generations that are alive."""
        found = map(self._read, self._others("generate", self._now_s(), alive=True))
        return [record for record in found if record]

    def dead(self) -> list[Entry]:
        """Records that dead processes left."""
        now_s, kinds = self._now_s(), get_args(Kind)
        return [entry for kind in kinds for entry in self._others(kind, now_s, alive=False)]

    def wait_for_collections(self, log: Callable[[str], None], *, poll_s: float = _POLL_S) -> None:
        """Return when no collection of garbage is under way that may not know of this process."""
        logged = False
        while other := self.collection():
            if not logged:
                log(f"  waiting for the collection of garbage by {other.who}")
                logged = True
            time.sleep(poll_s)

    def collection(self) -> Record | None:
        """The record of a collection of garbage that is alive, None when there is none."""
        now_s, entry = self._now_s(), self._root.find(_COLLECTION)
        return self._read(entry) if entry and now_s - entry.modified_s < LIFE_S else None

    def end(self) -> None:
        """Delete the record; where the store does not answer it counts as dead later."""
        try:
            now_s = self._now_s() if self._kind == "gc" else 0.0
            self._root.remove(self._name)
            # The common record is the last collection's to delete.
            if self._kind == "gc" and not self._others("gc", now_s, alive=True):
                self._root.remove(_COLLECTION)
        except OSError as error:
            warnings.warn(f"{self._root.uri}/{self._name} is left ({error})", stacklevel=2)

    def _others(self, kind: Kind, now_s: float, *, alive: bool) -> list[Entry]:
        """The records of other processes."""
        return [
            entry
            for entry in self._root.entries(f"{_FOLDER}{kind}-")
            if entry.name != self._name and (now_s - entry.modified_s < LIFE_S) == alive
        ]

    def _now_s(self) -> float:
        """The time by the store's clock, to the second."""
        self.renew()
        own = self._root.find(self._name)
        if own is None:
            raise ValueError(
                f"{self._root.uri}/{self._name}: deleted by another process; start again"
            )
        return own.modified_s

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
