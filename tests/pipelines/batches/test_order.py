"""The order of the samples: every one once a pass, few shards at a time, and well mixed all the same."""

import numpy as np
import pytest

from pipelines.batches.order import StreamOrder

# 64 scenes a shard, 10 groups a scene, unevenly, as a hash trie fills them.
COUNTS = 10 * np.random.default_rng(0).integers(32, 65, 304)


@pytest.mark.parametrize("counts", [[5], [3, 0, 4], [7] * 5, COUNTS[:40] // 20])
def test_a_pass_takes_every_sample_once_and_each_pass_in_another_order(counts: list[int]) -> None:
    order = StreamOrder(np.array(counts), seed=1, window_shards=2)
    passes = [
        [order.at(number * len(order) + place) for place in range(len(order))]
        for number in range(3)
    ]
    everything = {(shard, place) for shard, count in enumerate(counts) for place in range(count)}
    for taken in passes:
        assert len(taken) == len(everything)
        assert set(taken) == everything
    assert len(order) < 6 or passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_a_rank_reads_its_share_of_the_shards_and_few_at_a_time(world_size: int) -> None:
    order = StreamOrder(COUNTS // 10, seed=3, window_shards=2)
    for pass_index in (0, 1):
        read = 0
        for rank in range(world_size):
            seen: set[int] = set()
            first = pass_index * len(order)
            for position in range(first, first + len(order)):
                if position % world_size == rank:
                    shard, _ = order.at(position)
                    seen.add(shard)
                    if position % 97 == 0:
                        now, after = order.shards_near(position, rank=rank, world_size=world_size)
                        assert shard in now
                        # Two shards of each of its lanes, or three where one is cut by a lane's end.
                        assert len(now) <= 3 * 16 // world_size
                        assert after
            own = int(COUNTS[sorted(seen)].sum())
            assert own <= 1.25 * COUNTS.sum() / world_size
            read += own
        # A shard that is cut between two ranks is read by both.
        assert read <= 1.06 * COUNTS.sum()


def test_what_comes_next_is_known_across_the_end_of_a_pass() -> None:
    order = StreamOrder(COUNTS[:40] // 40, seed=1, window_shards=2)
    wrong = 0
    opened: set[int] = set()
    for position in range(1, 2 * len(order), 2):
        shard, _ = order.at(position)
        wrong += position > 1 and shard not in opened
        now, after = order.shards_near(position, rank=1, world_size=2)
        opened = {*now, *after}
    assert wrong == 0


def test_it_mixes_nearly_as_well_as_a_permutation_of_everything() -> None:
    """Scenes of a batch of 64 that are met once in it, and shards of a batch, beside a permutation's."""
    order, rng = StreamOrder(COUNTS, seed=1, window_shards=2), np.random.default_rng(1)
    scenes = np.repeat(np.arange(COUNTS.sum() // 10), 10)
    starts = np.concatenate([[0], np.cumsum(COUNTS)])

    def distinct(batch: list[int]) -> tuple[int, int]:
        shards = np.searchsorted(starts, batch, "right")
        return len(set(scenes[batch])), len(set(shards.tolist()))

    batches = [
        [int(starts[shard]) + place for shard, place in map(order.at, range(at, at + 64))]
        for at in range(0, 64 * 600, 64)
    ]
    ours = np.mean([distinct(batch) for batch in batches], axis=0)
    full = np.mean(
        [distinct(rng.integers(COUNTS.sum(), size=64).tolist()) for _ in batches], axis=0
    )
    assert ours[0] >= 0.95 * full[0]
    assert ours[1] >= 0.4 * full[1]
