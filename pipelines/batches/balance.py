"""How often a pass takes each single picture: cameras come equally often, and what they suffer, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def balanced_ends(rows: pa.Table, shards: Sequence[str]) -> list[np.ndarray]:
    """Where the turns of each picture of a shard end in a pass, in the order of `shards`.

    `rows` are the index's, with `shard` and `pictures`. Half of a pass is infrared where both cameras
    are there, and of a camera every degradation is as frequent as clean pictures are, as nearly as whole
    numbers of turns allow. No picture is left out; turns of a rare kind are spread evenly over it.
    """
    lists = rows["pictures"].combine_chunks()
    encoded = pc.list_flatten(lists).dictionary_encode()
    kinds, kind = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    held = np.bincount(kind, minlength=len(kinds))
    wanted = _wanted(kinds, held)[kind]
    place = _places_among_equals(kind, held)
    turns = (place + 1) * wanted // held[kind] - place * wanted // held[kind]
    of_shard = np.array(rows["shard"].to_pylist())[pc.list_parent_indices(lists).to_numpy()]
    return [np.cumsum(turns[of_shard == shard]) for shard in shards]


def _wanted(kinds: Sequence[str], held: np.ndarray) -> np.ndarray:
    """Turns of each kind ("ir_clean", …): those of the most frequent where all are alike."""
    cameras = [kind.partition("_")[0] for kind in kinds]
    num_kinds = Counter(cameras)
    of_camera = max(
        (num_kinds[camera] * n for camera, n in zip(cameras, held, strict=True)), default=0
    )
    return np.array([-(-of_camera // num_kinds[camera]) for camera in cameras], np.int64)


def _places_among_equals(kind: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The place of each picture among those of its kind, in their order."""
    order = np.argsort(kind, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(kind)) - np.repeat(np.cumsum(held) - held, held)
    return places
