"""A balanced pass: turns by camera and by what a picture suffers."""

from collections import Counter

import numpy as np
import pyarrow as pa

from pipelines.batches.balance import balanced_ends

SHARDS = ("a", "b", "empty")


def turns_of(*scenes: tuple[str, list[str]]) -> list[tuple[str, str]]:
    """Shard and kind of every turn of a pass."""
    shards, pictures = zip(*scenes, strict=True)
    rows = pa.table({"shard": [*shards], "pictures": [*pictures]})
    ends = dict(zip(SHARDS, balanced_ends(rows, SHARDS), strict=True))
    turns = []
    for shard in SHARDS:
        kinds = [kind for own, some in scenes if own == shard for kind in some]
        turns += [
            (shard, kinds[np.searchsorted(ends[shard], t, "right")])
            for t in range(max([0, *ends[shard]]))
        ]
    return turns


def test_cameras_and_their_tasks_come_equally_often() -> None:
    vi = [("a", ["vi_clean", "vi_haze", "vi_rain"])] * 3 + [("b", ["vi_clean", "vi_haze"])] * 2
    ir = [("a", ["ir_clean", "ir_stripe_noise"]), ("b", ["ir_clean"])]
    turns = turns_of(*vi, *ir)
    # Five of the most frequent of three kinds make 15 for a camera.
    assert Counter(kind for _, kind in turns) == {
        "vi_clean": 5, "vi_haze": 5, "vi_rain": 5, "ir_clean": 8, "ir_stripe_noise": 8,
    }  # fmt: skip
    # Turns of a rare kind are spread over its pictures.
    assert Counter(shard for shard, kind in turns if kind == "ir_clean") == {"a": 4, "b": 4}


def test_what_is_balanced_already_has_one_turn_each() -> None:
    pictures = ["ir_clean", "ir_blur", "vi_clean", "vi_rain"]
    assert Counter(turns_of(("a", pictures), ("b", pictures))) == {
        (shard, kind): 1 for shard in "ab" for kind in pictures
    }


def test_one_camera_alone_is_balanced_by_task() -> None:
    turns = turns_of(("a", ["vi_clean", "vi_rain"]), ("b", ["vi_clean"]))
    assert Counter(kind for _, kind in turns) == {"vi_clean": 2, "vi_rain": 2}
