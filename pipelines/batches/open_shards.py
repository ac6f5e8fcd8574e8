"""The shards of a version that are open: few at a time, the next ones opened ahead in the background."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from pipelines.batches.samplers import Sample, SamplerName, check_groups, samples_of
from pipelines.datasets.shards.markers import tar_of
from pipelines.datasets.shards.reading import ShardReader, open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder

# Open files of shards of one rank; a process may usually have 1024 of all kinds.
MOST_OPEN = 64
# On a remote store one waits for its answers while another checks and indexes.
_OPENING_THREADS = 2


@dataclass
class _Opened:
    """A shard that is open, or being opened; `users` read from it now."""

    ready: Future[tuple[ShardReader, list[Sample]]]
    users: int = 0


class OpenShards:
    """Shards of a version by their place in it; safe to share between threads.

    `counts` are the samples that the version's index promises of each.
    """

    def __init__(
        self, version: DatasetVersion, root: Folder, sampler: SamplerName, counts: Sequence[int]
    ) -> None:
        self._version, self._root, self._sampler, self._counts = version, root, sampler, counts
        self._lock = Lock()
        self._opened: OrderedDict[int, _Opened] = OrderedDict()  # the last used comes last
        self._wanted: frozenset[int] = frozenset()
        self._ahead = ThreadPoolExecutor(_OPENING_THREADS, thread_name_prefix="shards-ahead")

    @contextmanager
    def reading(self, shard: int) -> Iterator[list[Sample]]:
        """Give the samples of a shard, which stays open for the block.

        Raises ValueError, naming the shard, when it is damaged or not what its version says.
        """
        with self._lock:
            opened = self._opened.get(shard)
            mine = opened is None
            if opened is None:
                opened = self._opened[shard] = _Opened(Future())
            self._opened.move_to_end(shard)
            opened.users += 1
            closed = self._take_idle()
        try:
            for reader in closed:
                reader.close()
            if mine:
                self._open(shard, opened)
            yield opened.ready.result()[1]
        finally:
            with self._lock:
                opened.users -= 1

    def open_ahead(self, shards: Sequence[int]) -> None:
        """Open shards in the background, the first ones first, as many as may be open at once."""
        room = self._root.most_open_bytes
        wanted: list[int] = []
        for shard in shards[:MOST_OPEN]:
            if room is not None:
                room -= self._version.shards[shard].num_bytes
                if room < 0:
                    break
            wanted.append(shard)
        with self._lock:
            new = [shard for shard in wanted if shard not in self._wanted]
            self._wanted = frozenset(wanted)
        for shard in new:
            self._ahead.submit(self._touch, shard)

    def place_of(self, shard: int) -> str:
        """Where a shard lies, for error messages."""
        return f"{self._root.uri}/{tar_of(self._version.shards[shard].name)}"

    def close(self) -> None:
        """Close all of them."""
        self._ahead.shutdown(cancel_futures=True)
        with self._lock:
            left = [*self._opened.values()]
            self._opened.clear()
        for opened in left:
            if opened.ready.exception() is None:
                opened.ready.result()[0].close()

    def _touch(self, shard: int) -> None:
        with self._lock:
            if shard not in self._wanted or shard in self._opened:
                return
        try:
            with self.reading(shard):
                pass
        except (ValueError, OSError):
            # Whoever needs the shard opens it again, and is told then.
            with self._lock:
                self._wanted -= {shard}

    def _open(self, shard: int, opened: _Opened) -> None:
        try:
            opened.ready.set_result(self._read(shard))
        except BaseException as error:
            with self._lock:
                self._opened.pop(shard, None)
            opened.ready.set_exception(error)

    def _read(self, shard: int) -> tuple[ShardReader, list[Sample]]:
        info = self._version.shards[shard]
        reader = open_shard(self._root, info)
        try:
            samples = list(samples_of(reader, self._sampler))
            if len(samples) != self._counts[shard]:
                raise ValueError(
                    f"it holds {len(samples)} samples, the version's index says {self._counts[shard]}"
                )
            if self._sampler != "singles":
                check_groups(reader, self._version.config.shard)
        except ValueError as error:
            reader.close()
            raise ValueError(f"{self.place_of(shard)}: {error}; run jobs.generate again") from error
        return reader, samples

    def _take_idle(self) -> list[ShardReader]:
        """Take shards that nobody reads out of the list until the limits are kept; the caller has the lock.

        Those that are wanted soon go last.
        """
        idle = [
            shard
            for shard, opened in self._opened.items()
            if not opened.users and opened.ready.done()
        ]
        idle.sort(key=lambda shard: shard in self._wanted)  # stable: the longest unused first
        taken = []
        for shard in idle:
            if not self._are_too_many():
                break
            taken.append(self._opened.pop(shard).ready.result()[0])
        return taken

    def _are_too_many(self) -> bool:
        most = self._root.most_open_bytes
        held = sum(self._version.shards[shard].num_bytes for shard in self._opened)
        return len(self._opened) > MOST_OPEN or (most is not None and held > most)
