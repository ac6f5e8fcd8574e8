"""The order of the samples: a shuffle in two levels that needs few shards at a time.

The shards of a version are permuted for each pass, and their samples, one shard after the other, are
cut into lanes of equal length. Within a lane the samples of some shards, a window, are permuted.
Position p of the stream takes the next sample of lane p % L. All of it follows from (seed, pass, version):
no number of workers changes the order, and a worker that takes each R-th position reads only its own
lanes' shards.

L lanes, R ranks, W shards of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np

from pipelines.store.seeding import rng_at

# Up to so many nodes read shards of their own. A power of two, as every number of lanes.
_MOST_LANES = 16
# What is kept of the windows: those of all lanes, and the ones after them.
_KEPT_WINDOWS = 4 * _MOST_LANES


@dataclass(frozen=True)
class _Pass:
    """A pass: its shards in order, where each one's samples end, and the windows of each lane.

    `edges[lane]` are the places, among all samples in order of shards, at which its windows begin and end.
    """

    shards: np.ndarray
    ends: np.ndarray
    edges: list[np.ndarray]


class StreamOrder:
    """Where the sample of each position lies; `counts` are the samples of each shard of the version."""

    def __init__(self, counts: np.ndarray, *, seed: int, window_shards: int) -> None:
        self._counts, self._seed, self._window_shards = counts, seed, window_shards
        self._length = int(counts.sum())
        self._used = np.flatnonzero(counts)
        self.num_lanes = min(_MOST_LANES, 1 << (max(len(self._used), 1).bit_length() - 1))
        self._pass = lru_cache(2)(self._lay_out)
        self._window = lru_cache(_KEPT_WINDOWS)(self._shuffle)

    def __len__(self) -> int:
        """Samples of a pass."""
        return self._length

    def at(self, position: int) -> tuple[int, int]:
        """Shard, by its place in the version, and place among its samples, of a position."""
        pass_index, place = divmod(position, self._length)
        turn, lane = divmod(place, self.num_lanes)
        laid = self._pass(pass_index)
        edges = laid.edges[lane]
        offset = int(edges[0]) + turn
        window = int(np.searchsorted(edges, offset, "right")) - 1
        first = int(edges[window])
        sample = first + int(self._window(pass_index, lane, window)[offset - first])
        found = int(np.searchsorted(laid.ends, sample, "right"))
        shard = int(laid.shards[found])
        return shard, sample - int(laid.ends[found]) + int(self._counts[shard])

    def shards_near(
        self, position: int, *, rank: int, world_size: int
    ) -> tuple[list[int], list[int]]:
        """Shards of the windows that a rank reads at a position, and those of its next windows."""
        now: list[int] = []
        after: list[int] = []
        pass_index, place = divmod(position, self._length)
        for lane in self._lanes(pass_index, rank, world_size):
            edges = self._pass(pass_index).edges[lane]
            offset = int(edges[0]) + place // self.num_lanes
            # Behind the last sample of a lane that is one shorter than the others, its last window.
            window = min(int(np.searchsorted(edges, offset, "right")), len(edges) - 1) - 1
            now += self._shards_of(pass_index, lane, window)
            if window + 2 < len(edges):
                after += self._shards_of(pass_index, lane, window + 1)
        if not after:  # the pass ends
            for lane in self._lanes(pass_index + 1, rank, world_size):
                after += self._shards_of(pass_index + 1, lane, 0)
        return list(dict.fromkeys(now)), list(dict.fromkeys(after))

    def _lanes(self, pass_index: int, rank: int, world_size: int) -> Iterator[int]:
        """The lanes of a rank. A pass need not begin at rank 0, so they are others in each pass."""
        apart = gcd(world_size, self.num_lanes)
        return iter(range((rank - pass_index * self._length) % apart, self.num_lanes, apart))

    def _shards_of(self, pass_index: int, lane: int, window: int) -> list[int]:
        laid = self._pass(pass_index)
        first, end = laid.edges[lane][window : window + 2]
        start, stop = np.searchsorted(laid.ends, [first, end - 1], "right")
        return [int(shard) for shard in laid.shards[start : stop + 1]]

    def _lay_out(self, pass_index: int) -> _Pass:
        shards = rng_at(self._seed, "shards", str(pass_index)).permutation(self._used)
        ends = np.cumsum(self._counts[shards])
        edges: list[np.ndarray] = [np.empty(0, np.int64)] * self.num_lanes
        begin = 0
        # Lanes of one rank lie side by side: a shard that is cut between two is mostly read once.
        for lane in _bits_reversed(self.num_lanes):
            end = begin + len(range(lane, self._length, self.num_lanes))
            inner = ends[(ends > begin) & (ends < end)]
            bounds = np.concatenate([[begin], inner, [end]])
            num_windows = -(-(len(bounds) - 1) // self._window_shards)
            cuts = np.linspace(0, len(bounds) - 1, num_windows + 1).round().astype(int)
            edges[lane] = bounds[cuts]
            begin = end
        return _Pass(shards, ends, edges)

    def _shuffle(self, pass_index: int, lane: int, window: int) -> np.ndarray:
        first, end = self._pass(pass_index).edges[lane][window : window + 2]
        address = (str(pass_index), str(lane), str(window))
        return rng_at(self._seed, "order", *address).permutation(int(end - first))


def _bits_reversed(count: int) -> list[int]:
    """0 to `count` - 1, a power of two, so that numbers that are equal modulo 2, 4, … are neighbours."""
    order = [0]
    while len(order) < count:
        order = [2 * number for number in order] + [2 * number + 1 for number in order]
    return order
