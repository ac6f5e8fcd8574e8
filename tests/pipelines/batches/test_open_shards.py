"""Shards that are open: few, only those of a batch before it, and refused by name when they are bad."""

import json
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from infra.storage.s3_folder import S3Folder
from pipelines.batches import open_shards
from pipelines.batches.open_shards import OpenShards
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import LocalFolder
from tests.s3_servers import make_bucket

Published = tuple[DatasetVersion, LocalFolder]


def open_batches(version: DatasetVersion, root: Any, **settings: Any) -> ShardBatches:
    defaults = {"fields": ("vi_lq",), "batch_size": 2, "crop_px": 32, "seed": 1}
    share = {name: settings.pop(name) for name in ("rank", "world_size") if name in settings}
    return ShardBatches(version, root, Batching(**{**defaults, **settings}), **share)


def take_a_pass(batches: ShardBatches) -> None:
    for step in range(len(batches) // 2):
        batches.batch(step)


def open_tars() -> list[Path]:
    """The shards that this process has open."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            target = path.readlink()
        except FileNotFoundError:
            continue
        if ".tar" in target.name:
            found.append(target)
    return found


@dataclass(frozen=True)
class Watched(LocalFolder):
    """A folder that notes which thread asked for which file."""

    asked: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def checked(self, name: str, sha256: str) -> Iterator[Path]:
        """Note it, and give the file."""
        self.asked.append((threading.current_thread().name, name))
        with super().checked(name, sha256) as path:
            yield path


def test_the_first_batch_waits_for_its_own_shards_only(version_root: Published) -> None:
    version, root = version_root
    watched = Watched(root.path)
    batches = open_batches(version, watched)
    assert watched.asked == []
    batches.batch(0)
    waited = {name for thread, name in watched.asked if not thread.startswith("shards-ahead")}
    batches.close()
    wanted = {batches.sample_at(position).reader for position in batches.positions(0)}
    assert len(waited) == len(wanted) < len(version.shards)
    # The others follow in the background; nothing is opened twice.
    assert max(Counter(name for _, name in watched.asked[: len(version.shards)]).values()) == 1
    batches.close()


def test_few_are_open_at_a_time(version_root: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    version, root = version_root
    monkeypatch.setattr(open_shards, "MOST_OPEN", 2)
    shards = OpenShards(version, root, "groups", [shard.num_groups for shard in version.shards])
    before = len(open_tars())
    for turn in range(8):
        shards.open_ahead([(turn + 1) % 3])
        with shards.reading(turn % 3) as samples:
            assert samples[0].reader.image(samples[0].scene, "vi_gt").ndim == 3
            assert len(open_tars()) - before <= 2
    shards.close()
    assert len(open_tars()) == before


def test_a_window_of_more_shards_than_may_be_open_is_refused(
    version_root: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.batches.stream.MOST_OPEN", 2)
    with pytest.raises(ValueError, match="rank 0 of 1 would have 3 shards open, 2 are the most"):
        open_batches(*version_root)
    open_batches(*version_root, world_size=2).close()


def test_from_s3_through_a_cache_of_two_shards(
    version_root: Published, moto_url: str, tmp_path: Path
) -> None:
    """The same batches; the cache never takes more than its limit, what is open in it included."""
    version, root = version_root
    bucket = make_bucket(moto_url, "stream")
    limit = int(2.2 * max(shard.num_bytes for shard in version.shards))
    remote = S3Folder(f"{bucket}/sets", moto_url, tmp_path / "cache", limit)
    for entry in root.entries(""):
        if entry.name.startswith(("shards/", "versions/")):
            remote.replace(entry.name, root.read(entry.name))
    ours, local = (
        open_batches(version, remote, batch_size=1),
        open_batches(version, root, batch_size=1),
    )
    for step in range(12):
        assert ours.batch(step)["vi_lq"].equal(local.batch(step)["vi_lq"])
        held = {path for path in open_tars() if "/cache/" in str(path)}
        assert not any("deleted" in path.name for path in held)
        taken = sum(os.stat(path).st_size for path in (tmp_path / "cache").iterdir())  # noqa: PTH116
        assert 0 < taken <= limit
    ours.close()
    local.close()


@pytest.fixture(scope="module")
def many_shards(
    scenes: list[Scene], config: DatasetConfig, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    """A version of 48 shards, of a seed each."""
    root = LocalFolder(tmp_path_factory.mktemp("many"))
    shards = []
    for seed in range(48):
        shard = config.shard.model_copy(update={"seed": seed})
        few = scenes[seed % 9 : seed % 9 + 4 + seed % 3]
        [spec] = plan_shards(config.model_copy(update={"shard": shard}), few)
        shards.append(write_shard(spec, root).info)
    made = Made("0" * 40, "2026-01-01")
    return publish_version(root, config, scenes, shards, made), root


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "most_open"), [(1, 40), (2, 20), (8, 8)])
def test_a_node_fetches_its_share_of_the_bytes_in_a_pass(
    many_shards: Published, world_size: int, most_open: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank on a node of its own, six passes; fewer may be open than there are."""
    version, root = many_shards
    monkeypatch.setattr(open_shards, "MOST_OPEN", most_open)
    sizes = {f"shards/{shard.name}.tar": shard.num_bytes for shard in version.shards}
    fetched = 0
    for rank in range(world_size):
        watched, ranks = Watched(root.path), {"rank": rank, "world_size": world_size}
        batches = open_batches(
            version, watched, fields=("vi_task",), batch_size=4, window_shards=1, **ranks
        )
        for step in range(6 * len(batches) // (4 * world_size)):
            batches.batch(step)
        batches.close()
        fetched += sum(sizes[name] for _, name in watched.asked)
    # What is still open from the pass before is not fetched again.
    assert 0.3 * version.num_bytes <= fetched / 6 <= 1.25 * version.num_bytes


def edited(published: Published, change: Callable[[dict[str, Any]], None]) -> DatasetVersion:
    """The version with one scene's meta changed in its first shard, its digest right."""
    version, root = published
    path = root.path / "shards" / f"{version.shards[0].name}.tar"
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    first = next(place for place, (info, _) in enumerate(members) if info.name.endswith(".json"))
    meta = json.loads(members[first][1])
    change(meta)
    members[first] = (members[first][0], json.dumps(meta).encode())
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    new = {"sha256": sha256_of_file(path), "num_bytes": path.stat().st_size}
    shard = version.shards[0].model_copy(update=new)
    return version.model_copy(update={"shards": (shard, *version.shards[1:])})


def of_another_schema(meta: dict[str, Any]) -> None:
    meta["schema_version"] = 99


def of_absent_scenes(meta: dict[str, Any]) -> None:
    meta["groups"][0]["vi_positives"][0] = "nobody"


def of_too_few_positives(meta: dict[str, Any]) -> None:
    meta["groups"][0]["ir_positives"].pop()


def of_too_few_negatives(meta: dict[str, Any]) -> None:
    meta["groups"][0]["negatives"].pop()


def without_a_group(meta: dict[str, Any]) -> None:
    meta["groups"].pop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_schema, "has schema 99, this code reads"),
        (of_absent_scenes, r"refers to nobody\.vi_\w+, which is absent"),
        (of_too_few_positives, r"\(3, 2, 6\) positives and negatives, the recipe says \(3, 3, 6\)"),
        (of_too_few_negatives, r"\(3, 3, 5\) positives and negatives, the recipe says \(3, 3, 6\)"),
        (without_a_group, r"it holds \d+ samples, the version's index says \d+"),
    ],
)
def test_a_shard_that_is_not_what_its_version_says_is_named(
    version_root: Published, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    version = edited(version_root, change)
    batches = open_batches(version, version_root[1])
    with pytest.raises(ValueError, match=rf"{version.shards[0].name}\.tar: .*{message}") as raised:
        take_a_pass(batches)
    assert "\n" not in str(raised.value)
    batches.close()
