"""Verify a dataset version: digests, decodable pictures, groups that resolve, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from pipelines.datasets.groups import Group, members_of
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.shards import ShardInfo, ShardReader, find_shard, open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder


def verify_version(
    version: DatasetVersion,
    root: Folder,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Read every byte of a version and return what is wrong, one line each; empty when whole."""
    problems = []
    for done, info in enumerate(version.shards, start=1):
        problems += list(_shard_problems(root, info, version.config.shard))
        if on_progress:
            on_progress(done, len(version.shards))
    return problems


def _shard_problems(root: Folder, info: ShardInfo, config: ShardConfig) -> Iterator[str]:
    try:
        reader = open_shard(root, info)
    except ValueError as error:
        yield str(error)
        return
    with closing(reader):
        if find_shard(root, info.name) != info:
            yield f"{info.name}: its marker is missing or says something else than the manifest"
        yield from (f"{info.name}: {problem}" for problem in _count_problems(reader, info))
        for scene in reader.metas:
            for problem in (
                *_picture_problems(reader, scene, config),
                *_group_problems(reader, scene),
            ):
                yield f"{info.name}: scene {scene!r}: {problem}"


def _count_problems(reader: ShardReader, info: ShardInfo) -> Iterator[str]:
    metas = reader.metas.values()
    counted = {
        "scenes": (len(metas), info.num_scenes),
        "groups": (sum(len(meta.groups) for meta in metas), info.num_groups),
        "pictures": (
            sum(meta.num_images for meta in metas),
            info.num_images,
        ),
    }
    for what, (found, listed) in counted.items():
        if found != listed:
            yield f"holds {found} {what}, the manifest says {listed}"


def _picture_problems(reader: ShardReader, scene: str, config: ShardConfig) -> Iterator[str]:
    meta = reader.metas[scene]
    targets = (f"{camera}_gt" for camera in meta.cameras)
    for member in (*targets, *members_of(config, meta.cameras)):
        expected = (meta.height, meta.width, 3 if member.startswith("vi") else 1)
        try:
            shape = reader.image(scene, member).shape
        # zstd and NumPy raise OSError and EOFError on bytes that they did not write.
        except (ValueError, OSError, EOFError) as error:
            yield f"{member} cannot be read ({error})"
            continue
        if shape != expected:
            yield f"{member} is {shape}, expected {expected}"


def _group_problems(reader: ShardReader, scene: str) -> Iterator[str]:
    for group in reader.metas[scene].groups:
        for other, member in _references(scene, group):
            if other not in reader.metas or not reader.has_image(other, member):
                yield f"its group {group.vi}/{group.ir} refers to {other}.{member}, which is absent"


def _references(scene: str, group: Group) -> Iterator[tuple[str, str]]:
    yield from ((scene, f"vi_{group.vi}"), (scene, f"ir_{group.ir}"))
    yield from ((scene, member) for member in group.negatives)
    yield from ((other, f"vi_{group.vi}") for other in group.vi_positives)
    yield from ((other, f"ir_{group.ir}") for other in group.ir_positives)
