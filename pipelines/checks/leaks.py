"""Pictures that are nearly the same, by perceptual hash: the leaks between splits.

The hash of a picture is 64 signs of its lowest cosine coefficients (32×32 grey, 8×8 kept, each
against their median), so it survives scaling, JPEG and palettes.

Near copies are found by sorting (Charikar, Similarity estimation techniques, STOC 2002, section 3): in an
order of the bits drawn at random, two hashes that differ in few bits have the first ones in common, and
come to lie next to each other; after many orders, in one of them. That is linear in the scenes. A pair
that differs in `MAX_DISTANCE_BITS` is missed now and then; the nearer, the more surely it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipelines.sources.scenes import Scene, SceneTable

# On seven published sets no two scenes of different splits come nearer than 14 bits, and the one
# split that is known to share a camera (DSPFusion's LLVIP scenes) comes to 10.
MAX_DISTANCE_BITS = 10
# A sorted scene is compared with this many that follow it; all pairs of that few need one order.
_REACH = 24
_EXACT_SCENES = 4096
_ORDERS = 100


class Leak(BaseModel):
    """Two scenes of different splits that show nearly the same; bits that differ, VI and IR.

    None for a camera that one of them does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    vi_bits: int | None
    ir_bits: int | None


def find_leaks(
    scenes: Sequence[Scene],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Leak]:
    """For each scene its nearest one of another split in each camera, where it is near; no pair twice.

    A static camera has as many pairs that are near as the product of its splits: those are not listed.
    """
    table = SceneTable.of(scenes).table.sort_by("id")
    splits = table.column("split").combine_chunks().dictionary_encode().indices.to_numpy()
    hashes = [_hashes(table.column(f"{camera}_phash")) for camera in ("vi", "ir")]
    num_orders = 2 * _num_orders(len(splits))
    found: set[tuple[int, int]] = set()
    for camera, (values, present) in enumerate(hashes):
        places = np.flatnonzero(present)
        nearest = _Nearest(values[places], splits[places])
        for done in nearest.search():
            if on_progress:
                on_progress(camera * num_orders // 2 + done, num_orders)
        found |= {
            (min(pair), max(pair))
            for pair in zip(
                places[nearest.found].tolist(),
                places[nearest.partner[nearest.found]].tolist(),
                strict=True,
            )
        }
    return list(_leaks(table.column("id"), hashes, sorted(found)))


_Hashes = tuple[np.ndarray, np.ndarray]


def _hashes(column: pa.ChunkedArray) -> _Hashes:
    """Hashes as numbers, and which of them were computed."""
    texts = column.to_pylist()
    values = np.array([int(text or "0", 16) for text in texts], np.uint64)
    return values, np.array([bool(text) for text in texts], bool)


def _num_orders(num_scenes: int) -> int:
    return 1 if num_scenes <= _EXACT_SCENES else _ORDERS


class _Nearest:
    """The nearest hash of another split that was met so far, for each that has one near enough."""

    def __init__(self, hashes: np.ndarray, splits: np.ndarray) -> None:
        self._hashes, self._splits = hashes, splits
        self._bits = np.full(len(hashes), MAX_DISTANCE_BITS + 1, np.uint8)
        self.partner = np.full(len(hashes), -1, np.int32)

    @property
    def found(self) -> np.ndarray:
        """Places of the hashes that have one."""
        return np.flatnonzero(self.partner >= 0)

    def search(self) -> Iterator[int]:
        """Compare neighbours in one order of the bits after the other; yield how many are done."""
        num_orders = _num_orders(len(self._hashes))
        reach = len(self._hashes) - 1 if num_orders == 1 else _REACH
        rng, unpacked = np.random.default_rng(0), _unpacked(self._hashes)
        for done in range(1, num_orders + 1):
            order = np.argsort(_permuted(unpacked, rng.permutation(64)))
            hashes, splits = self._hashes[order], self._splits[order]
            for step in range(1, reach + 1):
                bits = np.bitwise_count(hashes[:-step] ^ hashes[step:])
                near = np.flatnonzero(
                    (bits <= MAX_DISTANCE_BITS) & (splits[:-step] != splits[step:])
                )
                self._note(order[near], order[near + step], bits[near])
                self._note(order[near + step], order[near], bits[near])
            yield done

    def _note(self, places: np.ndarray, partners: np.ndarray, bits: np.ndarray) -> None:
        nearer = bits < self._bits[places]
        self._bits[places[nearer]] = bits[nearer]
        self.partner[places[nearer]] = partners[nearer]


def _unpacked(hashes: np.ndarray) -> np.ndarray:
    """The bits of all hashes, 64×N."""
    return np.ascontiguousarray(np.unpackbits(hashes[:, None].view(np.uint8), axis=1).T)


def _permuted(bits: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Hashes with their bits in another order."""
    packed = np.packbits(bits[order], axis=0)  # 8 N
    return np.ascontiguousarray(packed.T).view(np.uint64)[:, 0]


def _leaks(
    ids: pa.ChunkedArray, hashes: Sequence[_Hashes], pairs: Sequence[tuple[int, int]]
) -> Iterator[Leak]:
    for first, second in pairs:
        vi, ir = (
            int(np.bitwise_count(values[first] ^ values[second]))
            if present[first] and present[second]
            else None
            for values, present in hashes
        )
        yield Leak(first=ids[first].as_py(), second=ids[second].as_py(), vi_bits=vi, ir_bits=ir)
