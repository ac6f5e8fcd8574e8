from collections import Counter

import pytest
import torch

from pipelines.batches.decoding import to_floats
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder

Published = tuple[DatasetVersion, LocalFolder]
FIELDS = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "vi_pos", "ir_pos", "neg", "seed")


def open_batches(published: Published, **settings: object) -> ShardBatches:
    version, root = published
    defaults = {"fields": FIELDS, "batch_size": 2, "crop_px": 32, "seed": 1}
    share = {name: settings.pop(name) for name in ("rank", "world_size") if name in settings}
    return ShardBatches(version, root, Batching(**{**defaults, **settings}), **share)  # type: ignore[arg-type]


def test_shapes_and_range(version_root: Published) -> None:
    batch = open_batches(version_root).batch(0)
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "vi_lq": (2, 3, 32, 32),
        "vi_gt": (2, 3, 32, 32),
        "ir_lq": (2, 1, 32, 32),
        "ir_gt": (2, 1, 32, 32),
        "vi_pos": (2, 3, 3, 32, 32),
        "ir_pos": (2, 3, 1, 32, 32),
        "neg": (2, 6, 3, 32, 32),
        "seed": (2,),
        "position": (2,),
    }
    floats = to_floats(batch)
    for name in FIELDS[:-1]:
        assert batch[name].dtype == torch.uint8
        assert floats[name].dtype == torch.float32
        assert 0 <= floats[name].min() <= floats[name].max() <= 1
    assert floats["seed"] is batch["seed"]


def test_any_step_again_is_the_same(version_root: Published) -> None:
    first, second = open_batches(version_root), open_batches(version_root)
    for _ in range(3):
        first.batch(0)
    for name, value in first.batch(11).items():
        assert torch.equal(value, second.batch(11)[name]), name


def test_clean_anchor_is_its_own_target(version_root: Published) -> None:
    batches = open_batches(version_root, batch_size=len(open_batches(version_root)))
    batch = batches.batch(0)
    clean = [
        row
        for row, position in enumerate(batch["position"].tolist())
        if batches.sample_at(position).group.vi == "clean"
    ]
    assert len(clean) == 16
    # The same window and turn for degraded and clean: equal to the pixel.
    assert torch.equal(batch["vi_lq"][clean], batch["vi_gt"][clean])


def test_ranks_share_a_pass_without_repeats(version_root: Published) -> None:
    ranks = [open_batches(version_root, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    total = len(ranks[0])
    assert total == 64
    seen = Counter(
        (ranks[0].sample_at(position).scene, ranks[0].sample_at(position).group.vi)
        for step in range(total // 8)
        for one in ranks
        for position in one.positions(step)
    )
    assert len(seen) == total
    assert set(seen.values()) == {1}


def test_two_ranks_with_half_the_batch_are_one_with_the_whole(version_root: Published) -> None:
    whole = open_batches(version_root, batch_size=4).batch(3)
    halves = [open_batches(version_root, rank=rank, world_size=2).batch(3) for rank in range(2)]
    # They take turns: each reads lanes of its own.
    for name, value in whole.items():
        assert torch.equal(value, torch.stack([half[name] for half in halves], dim=1).flatten(0, 1))


def test_any_number_of_ranks_takes_the_same_samples_at_a_step(version_root: Published) -> None:
    def taken(world_size: int, step: int) -> list[int]:
        size = 8 // world_size
        ranks = [
            open_batches(version_root, rank=rank, world_size=world_size, batch_size=size)
            for rank in range(world_size)
        ]
        assert len({len(one.positions(step)) for one in ranks}) == 1
        return sorted(position for one in ranks for position in one.positions(step))

    for step in (0, 5, 11):
        assert taken(1, step) == taken(2, step) == taken(4, step) == taken(8, step)


def test_passes_have_orders_of_their_own(version_root: Published) -> None:
    batches = open_batches(version_root)
    orders = [
        [batches.sample_at(start + place).scene for place in range(len(batches))]
        for start in (0, len(batches))
    ]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_a_crop_larger_than_the_picture_is_mirrored(version_root: Published) -> None:
    batch = open_batches(version_root, crop_px=96).batch(0)
    assert batch["vi_gt"].shape == (2, 3, 96, 96)
    assert torch.isfinite(batch["vi_gt"]).all()


def test_only_the_named_fields_are_decoded(version_root: Published) -> None:
    fields = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "seed")
    full, part = open_batches(version_root).batch(2), open_batches(version_root, fields=fields)
    some = part.batch(2)
    assert set(some) == {*fields, "position"}
    # The draws do not depend on what is decoded.
    assert all(torch.equal(some[name], full[name]) for name in some)
    with pytest.raises(ValueError, match="vi_pso"):
        open_batches(version_root, fields=("vi_pso",))


def test_a_damaged_shard_is_refused(version_root: Published) -> None:
    version, root = version_root
    tar = root.path / "shards" / f"{version.shards[0].name}.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    batches = open_batches(version_root)
    with pytest.raises(ValueError, match=rf"{tar.name}: missing or damaged"):
        [batches.batch(step) for step in range(len(batches) // 2)]
