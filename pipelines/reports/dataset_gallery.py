"""The dataset gallery: one HTML page with scenes, variants, groups, drawn parameters and sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from pipelines.datasets.groups import Group, members_of
from pipelines.datasets.shards.reading import ShardReader, open_shard
from pipelines.datasets.shards.sample import SampleMeta
from pipelines.datasets.versions import DatasetVersion
from pipelines.reports.charts import histogram
from pipelines.reports.filters import words
from pipelines.reports.page import Figure, data_uri, write_page
from pipelines.store.folders import Folder

_NUM_SCENES = 3
_NUM_GROUPS = 2
# Histograms and sizes read at most this many shards, spread over the version.
_MOST_SHARDS = 64
_MIB = 2**20


class SceneArticle(NamedTuple):
    """A scene's pictures, a strip for each camera."""

    id: str
    note: str
    strips: Sequence[Sequence[Figure]]


class GroupArticle(NamedTuple):
    """A group's pictures by their part in it."""

    scene: str
    anchors: tuple[str, str]
    strips: Mapping[str, Sequence[Figure]]


def write_gallery(version: DatasetVersion, root: Folder, path: Path) -> None:
    """Write one self-contained page about a version."""
    stride = max(1, -(-len(version.shards) // _MOST_SHARDS))
    chosen = version.shards[::stride]
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(open_shard(root, shard))) for shard in chosen]
        metas = [meta for reader in readers for meta in reader.metas.values()]
        totals = _bytes_by_member(readers)
        write_page(
            path,
            "dataset.html.j2",
            title=f"Dataset {version.name}",
            facts=_facts(version),
            seen=f"From {len(chosen)} of {len(version.shards)} shards, {len(metas)} scenes.",
            scenes=[
                _scene_article(reader, scene, members_of(version.config.shard))
                for reader, scene in _spread(readers, _NUM_SCENES)
            ],
            groups=list(_group_articles(readers)),
            parameters=[histogram(*drawn) for drawn in _parameters(metas).items()],
            sizes=[histogram(*sizes) for sizes in _sizes(version, metas).items()],
            bytes_by_member=sorted(totals.items(), key=lambda item: -item[1]),
            num_bytes=sum(totals.values()),
            refused=version.refused,
        )


def _facts(version: DatasetVersion) -> dict[str, str]:
    shard = version.config.shard
    return {
        "scenes": f"{version.num_scenes} of split {version.config.split}",
        "groups": f"{version.num_groups}, K = {shard.num_positives}, M = {shard.num_negatives}",
        "shards": f"{len(version.shards)}, {version.num_bytes / _MIB:.1f} MiB",
        "bytes per group": f"{version.num_bytes / max(version.num_groups, 1) / 2**10:.0f} KiB",
        "degradations VI": ", ".join(map(words, shard.vi)),
        "degradations IR": ", ".join(map(words, shard.ir)),
        "seed, codec": f"{shard.seed}, {shard.image_codec}",
        "refused sources": str(len(version.refused)),
        "created": f"{version.created[:16].replace('T', ' ')} UTC",
        "commit": version.commit[:12],
        "digest": version.digest,
    }


def _spread(readers: Sequence[ShardReader], count: int) -> Iterator[tuple[ShardReader, str]]:
    """Scenes spread over the version, from different shards where there are enough."""
    for index in range(count):
        reader = readers[index * len(readers) // count]
        scenes = sorted(reader.metas)
        yield reader, scenes[index * len(scenes) // count]


def _scene_article(reader: ShardReader, scene: str, members: Sequence[str]) -> SceneArticle:
    meta = reader.metas[scene]
    strips = []
    for modality in meta.cameras:
        clean = reader.image(scene, f"{modality}_gt")
        figures = [Figure(data_uri(clean), f"{modality.upper()} reference")]
        figures += [
            _figure(reader, scene, member, _drawn(meta, member))
            for member in members
            if member.startswith(modality) and (member in meta.variants or member in meta.natives)
        ]
        strips.append(figures)
    return SceneArticle(scene, f"{meta.width}×{meta.height} px, {meta.dataset}", strips)


def _group_articles(readers: Sequence[ShardReader]) -> Iterator[GroupArticle]:
    # Shards of scenes with one camera hold no group.
    readers = [reader for reader in readers if any(meta.groups for meta in reader.metas.values())]
    for index, (reader, scene) in enumerate(_spread(readers, _NUM_GROUPS if readers else 0)):
        groups = reader.metas[scene].groups
        # Skip the clean anchor, which comes first; show different degradations.
        yield _group_article(reader, scene, groups[(1 + index) % len(groups)])


def _group_article(reader: ShardReader, scene: str, group: Group) -> GroupArticle:
    vi, ir = f"vi_{group.vi}", f"ir_{group.ir}"
    meta = reader.metas[scene]

    def own(*members: str) -> list[Figure]:
        return [_figure(reader, scene, member, _drawn(meta, member)) for member in members]

    strips = {
        "Anchors": own(vi, ir),
        "VI positives": [_figure(reader, other, vi, [other]) for other in group.vi_positives],
        "IR positives": [_figure(reader, other, ir, [other]) for other in group.ir_positives],
        "Negatives": own(*group.negatives),
    }
    return GroupArticle(scene, (vi, ir), strips)


def _figure(reader: ShardReader, scene: str, member: str, lines: Sequence[str]) -> Figure:
    return Figure(data_uri(reader.image(scene, member)), words(member), lines)


def _drawn(meta: SampleMeta, member: str) -> list[str]:
    if member in meta.natives:
        return ["native file"]
    return [
        f"{name.replace('_', ' ')} {value:.3g}"
        for applied in meta.variants.get(member, ())
        for name, value in applied.params.items()
        if name != "seed"
    ]


def _parameters(metas: Sequence[SampleMeta]) -> dict[str, list[float]]:
    """Drawn numbers by name (`VI blur: sigma px`), without seeds and without constants."""
    values: dict[str, list[float]] = defaultdict(list)
    for meta in metas:
        for member, chain in meta.variants.items():
            for applied in chain:
                for name, value in applied.params.items():
                    if name != "seed" and isinstance(value, int | float):
                        values[f"{words(member)}: {name.replace('_', ' ')}"].append(value)
    return {name: drawn for name, drawn in values.items() if min(drawn) < max(drawn)}


def _sizes(version: DatasetVersion, metas: Sequence[SampleMeta]) -> dict[str, list[float]]:
    return {
        "Width, px": [meta.width for meta in metas],
        "Height, px": [meta.height for meta in metas],
        "Shard, MiB": [shard.num_bytes / _MIB for shard in version.shards],
        "Scenes per shard": [shard.num_scenes for shard in version.shards],
    }


def _bytes_by_member(readers: Sequence[ShardReader]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for reader in readers:
        for member, size in reader.bytes_by_member().items():
            totals[member] += size
    return totals
