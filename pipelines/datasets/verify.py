"""Verify a dataset version: digests, decodable pictures, groups that resolve, counts; made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pyarrow as pa

from degradations.catalogue import CLEAN
from pipelines.datasets.group_index import read_group_rows, rows_by_shard, rows_of
from pipelines.datasets.groups import Group, members_of, pictures_of_group
from pipelines.datasets.plan import ShardConfig, ShardSpec
from pipelines.datasets.shards.markers import ShardInfo, find_shard
from pipelines.datasets.shards.reading import ShardReader, open_shard
from pipelines.datasets.shards.sample import make_sample
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Read, Scene, SceneTable, read_file
from pipelines.store.folders import Folder


def verify_version(
    version: DatasetVersion,
    root: Folder,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Read every byte of a version and return what is wrong, one line each; empty when whole.

    Its manifest was checked against its own digest when it was read.
    """
    problems: list[str] = []
    owners: dict[str, str] = {}
    indexed = None
    try:
        indexed = rows_by_shard(read_group_rows(root, version.name))
    except ValueError as error:
        problems.append(str(error))
    for done, info in enumerate(version.shards, start=1):
        problems += _shard_problems(root, info, version.config.shard, owners, indexed)
        if on_progress:
            on_progress(done, len(version.shards))
    return problems


def remake_scenes(
    version: DatasetVersion,
    root: Folder,
    scenes: SceneTable,
    *,
    num_scenes: int,
    read: Read = read_file,
) -> dict[str, set[str]]:
    """Make some scenes of a version again; return those members, by scene, that come to other bytes.

    `scenes` are those that the version was made of. The shards that are looked at are spread evenly.
    Raises ValueError when this code has other kernels or codecs than made the version.
    """
    code = version.config.shard.code_versions()
    if code != version.code:
        raise ValueError(
            f"{version.name} was made by {version.code.model_dump()}, this code has "
            f"{code.model_dump()}; only the same versions can be compared: check out {version.commit}"
        )
    places = {scene_id: place for place, scene_id in enumerate(scenes.ids())}
    spread = np.linspace(0, len(version.shards) - 1, min(num_scenes, version.num_scenes), dtype=int)
    changed: dict[str, set[str]] = {}
    for shard, count in Counter(spread.tolist()).items():
        with closing(open_shard(root, version.shards[shard])) as reader:
            members = tuple(scenes[places[scene_id]] for scene_id in sorted(reader.metas))
            spec = ShardSpec(scenes=members, config=version.config.shard)
            for scene in members[:count]:
                if others := _other_members(reader, scene, spec, read):
                    changed[scene.id] = others
    return changed


def _other_members(reader: ShardReader, scene: Scene, spec: ShardSpec, read: Read) -> set[str]:
    """The members of a scene that are made other than they are stored ("json" is its record)."""
    sample, _ = make_sample(scene, spec, read)
    stored = reader.encoded(scene.id)
    fields = (sample.keys() | stored.keys()) - {"__key__"}
    return {field.partition(".")[0] for field in fields if sample.get(field) != stored.get(field)}


def _shard_problems(
    root: Folder,
    info: ShardInfo,
    config: ShardConfig,
    owners: dict[str, str],
    indexed: dict[str, pa.Table] | None,
) -> Iterator[str]:
    """Problems of one shard; `owners` holds the shard of every scene so far, `indexed` rows by shard."""
    try:
        reader = open_shard(root, info)
    except ValueError as error:
        yield str(error)
        return
    with closing(reader):
        if find_shard(root, info.name) != info:
            yield f"{info.name}: its marker is missing or says something else than the manifest"
        yield from (f"{info.name}: {problem}" for problem in _count_problems(reader, info))
        listed = None if indexed is None else indexed.get(info.name, rows_of([]))
        if listed is not None and not listed.equals(rows_of(reader.metas.values())):
            yield f"{info.name}: the version's index of groups says something else of it"
        for scene in reader.metas:
            if owners.setdefault(scene, info.name) != info.name:
                yield f"{info.name}: scene {scene!r} is in {owners[scene]}, too"
            for problem in (
                *_picture_problems(reader, scene, config),
                *_group_problems(reader, scene, config),
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


def _group_problems(reader: ShardReader, scene: str, config: ShardConfig) -> Iterator[str]:
    meta = reader.metas[scene]
    anchors = [group.vi for group in meta.groups]
    every = config.vi if config.pairing == "matched" else (CLEAN, *config.vi)
    expected = [*every] if len(meta.cameras) == 2 else []
    if anchors != expected:
        yield f"its groups are of {anchors}, the recipe has {expected}"
    for group in meta.groups:
        where = f"its group {group.vi}/{group.ir}"
        yield from (f"{where} {problem}" for problem in _member_problems(scene, group, config))
        for other, member in pictures_of_group(scene, group):
            if other not in reader.metas or not reader.has_image(other, member):
                yield f"{where} refers to {other}.{member}, which is absent"


def _member_problems(scene: str, group: Group, config: ShardConfig) -> Iterator[str]:
    counts = {
        "VI positives": (group.vi_positives, config.num_positives),
        "IR positives": (group.ir_positives, config.num_positives),
        "negatives": (group.negatives, config.num_negatives - 1),
    }
    for what, (members, expected) in counts.items():
        if len({*members}) != expected or len(members) != expected:
            yield f"has {len({*members})} different {what}, the recipe says {expected}"
    if scene in (*group.vi_positives, *group.ir_positives):
        yield "has its own scene among the positives"
    for anchor in {f"vi_{group.vi}", f"ir_{group.ir}"} & {*group.negatives}:
        yield f"has its anchor {anchor} among the negatives"
