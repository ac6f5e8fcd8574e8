"""A dataset version to look at: scenes with their variants, groups, drawn parameters, sizes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from html import escape
from pathlib import Path

import numpy as np

from pipelines.datasets.groups import Group, members_of
from pipelines.datasets.shards import SampleMeta, ShardReader, open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.reports.page import facts_part, figure, render_page, section
from pipelines.store.files import write_whole
from pipelines.store.folders import Folder

_NUM_SCENES = 3
_NUM_GROUPS = 2
# Histograms and sizes come from that many shards at most, spread over the version.
_MOST_SHARDS = 64
_MOST_BINS = 24
_MIB = 2**20


def write_gallery(version: DatasetVersion, root: Folder, path: Path) -> None:
    """Write one self-contained page about a version."""
    stride = max(1, -(-len(version.shards) // _MOST_SHARDS))
    chosen = version.shards[::stride]
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(open_shard(root, shard))) for shard in chosen]
        metas = [meta for reader in readers for meta in reader.metas.values()]
        seen = f"From {len(chosen)} of {len(version.shards)} shards, {len(metas)} scenes."
        parts = [
            facts_part(_facts(version)),
            _scenes_part(version, readers),
            _groups_part(version, readers),
            section("Drawn parameters", _histograms(_parameters(metas)), note=seen),
            section(
                "Sizes", _histograms(_sizes(version, metas)) + _bytes_table(readers), note=seen
            ),
            _refused_part(version),
        ]
    write_whole(path, render_page(f"Dataset {version.name}", parts).encode())


def _facts(version: DatasetVersion) -> dict[str, str]:
    shard = version.config.shard
    return {
        "scenes": f"{version.num_scenes} of split {version.config.split}",
        "groups": f"{version.num_groups}, K = {shard.num_positives}, M = {shard.num_negatives}",
        "shards": f"{len(version.shards)}, {version.num_bytes / _MIB:.1f} MiB",
        "bytes a group": f"{version.num_bytes / max(version.num_groups, 1) / 2**10:.0f} KiB",
        "degradations VI": ", ".join(map(_spoken, shard.vi)),
        "degradations IR": ", ".join(map(_spoken, shard.ir)),
        "seed, codec": f"{shard.seed}, {shard.image_codec}",
        "refused sources": str(len(version.refused)),
        "made": f"{version.created[:16].replace('T', ' ')} UTC",
        "by commit": version.commit[:12],
        "digest": version.digest,
    }


def _spread(readers: Sequence[ShardReader], count: int) -> Iterator[tuple[ShardReader, str]]:
    """Scenes from the beginning, the middle and the end, each from another shard if there are."""
    for index in range(count):
        reader = readers[index * len(readers) // count]
        scenes = sorted(reader.metas)
        yield reader, scenes[index * len(scenes) // count]


def _scenes_part(version: DatasetVersion, readers: Sequence[ShardReader]) -> str:
    articles = "".join(
        _scene_article(reader, scene, members_of(version.config.shard))
        for reader, scene in _spread(readers, _NUM_SCENES)
    )
    note = (
        "A scene is stored once, with every variant. Below a variant stands what was drawn for it."
    )
    return section("Scenes and their variants", articles, note=note)


def _scene_article(reader: ShardReader, scene: str, members: Sequence[str]) -> str:
    meta = reader.metas[scene]
    strips = []
    for modality in meta.cameras:
        figures = [figure(reader.image(scene, f"{modality}_gt"), f"{modality.upper()} reference")]
        figures += [
            figure(reader.image(scene, member), _spoken(member), below=_drawn(meta, member))
            for member in members
            if member.startswith(modality) and (member in meta.variants or member in meta.natives)
        ]
        strips.append(f'<div class="strip dense">{"".join(figures)}</div>')
    size = f"{meta.width}×{meta.height} px, {meta.dataset}"
    return _article(scene, size, "".join(strips))


def _groups_part(version: DatasetVersion, readers: Sequence[ShardReader]) -> str:
    # Shards of scenes with one camera hold no group.
    readers = [reader for reader in readers if any(meta.groups for meta in reader.metas.values())]
    if not readers:
        return ""
    articles = []
    for index, (reader, scene) in enumerate(_spread(readers, _NUM_GROUPS)):
        groups = reader.metas[scene].groups
        # Neither the clean anchor, which comes first, nor twice the same degradation.
        articles.append(_group_article(reader, scene, groups[(1 + index) % len(groups)]))
    note = (
        "Positives: other scenes in the anchor's degradation. Negatives: other variants of the "
        "anchor's own scene, and for each anchor the other one."
    )
    return section("Contrastive groups", "".join(articles), note=note)


def _group_article(reader: ShardReader, scene: str, group: Group) -> str:
    vi, ir = f"vi_{group.vi}", f"ir_{group.ir}"
    rows = {
        "Anchors": [(scene, vi), (scene, ir)],
        "VI positives": [(other, vi) for other in group.vi_positives],
        "IR positives": [(other, ir) for other in group.ir_positives],
        "Negatives": [(scene, member) for member in group.negatives],
    }
    strips = "".join(
        f'<h4>{title}</h4><div class="strip dense">'
        + "".join(
            figure(
                reader.image(of, member),
                _spoken(member),
                below=[of] if of != scene else _drawn(reader.metas[scene], member),
            )
            for of, member in pictures
        )
        + "</div>"
        for title, pictures in rows.items()
    )
    return _article(f"{_spoken(vi)}, {_spoken(ir)}", scene, strips)


def _article(title: str, quiet: str, body: str) -> str:
    return f'<article><h3>{escape(title)} <span class="quiet">{escape(quiet)}</span></h3>{body}</article>'


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
    """Numbers by "VI blur: sigma px"; seeds say nothing, and constants are left to the recipe."""
    values: dict[str, list[float]] = defaultdict(list)
    for meta in metas:
        for member, chain in meta.variants.items():
            for applied in chain:
                for name, value in applied.params.items():
                    if name != "seed" and isinstance(value, int | float):
                        values[f"{_spoken(member)}: {name.replace('_', ' ')}"].append(value)
    return {name: drawn for name, drawn in values.items() if min(drawn) < max(drawn)}


def _sizes(version: DatasetVersion, metas: Sequence[SampleMeta]) -> dict[str, list[float]]:
    return {
        "Width, px": [meta.width for meta in metas],
        "Height, px": [meta.height for meta in metas],
        "Shard, MiB": [shard.num_bytes / _MIB for shard in version.shards],
        "Scenes a shard": [shard.num_scenes for shard in version.shards],
    }


def _histograms(values: Mapping[str, Sequence[float]]) -> str:
    return f'<div class="charts">{"".join(_histogram(*item) for item in values.items())}</div>'


# Geometry in SVG units; the bars stand above a line, the range below it.
_W, _H, _BASE = 340, 110, 90


def _histogram(name: str, values: Sequence[float]) -> str:
    # Few values in many bins are a comb and not a shape.
    num_bins = int(np.clip(2 * math.sqrt(len(values)), 6, _MOST_BINS))
    counts, edges = np.histogram(values, bins=num_bins)
    width = _W / num_bins
    bars = "".join(
        f'<rect x="{index * width + 0.5:.1f}" width="{width - 1:.1f}" '
        f'y="{_BASE - height:.1f}" height="{height:.1f}"/>'
        for index, height in enumerate(counts / counts.max() * (_BASE - 4))
    )
    # A single value has no range; NumPy draws it in the middle of one.
    low, high = (edges[0], edges[-1]) if min(values) < max(values) else (min(values),) * 2
    label = f"{len(values)} values, mean {np.mean(values):.3g}"
    ends = (
        f'<text x="0" y="{_H - 4}">{low:.3g}</text>'
        f'<text x="{_W}" y="{_H - 4}" text-anchor="end">{high:.3g}</text>'
        if low < high
        else f'<text x="{_W / 2}" y="{_H - 4}" text-anchor="middle">{low:.4g}</text>'
    )
    return (
        f"<figure><figcaption><b>{escape(name)}</b><span>{label}</span></figcaption>"
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(name)}">'
        f'<g class="bars">{bars}</g>'
        f'<line class="axis" x1="0" x2="{_W}" y1="{_BASE}" y2="{_BASE}"/>{ends}</svg></figure>'
    )


def _bytes_table(readers: Sequence[ShardReader]) -> str:
    totals: dict[str, int] = defaultdict(int)
    for reader in readers:
        for member, size in reader.bytes_by_member().items():
            totals[member] += size
    everything = sum(totals.values())
    lines = "".join(
        f'<tr><th scope="row">{escape(_spoken(member))}</th><td>{size / _MIB:.2f}</td>'
        f"<td>{size / everything:.1%}</td></tr>"
        for member, size in sorted(totals.items(), key=lambda item: -item[1])
    )
    return (
        '<details open><summary>Where the bytes are</summary><div class="wide"><table class="gate">'
        '<thead><tr><th scope="col">Picture</th><th scope="col">MiB</th><th scope="col">Share</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div></details>"
    )


def _refused_part(version: DatasetVersion) -> str:
    if not version.refused:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{escape(item.path)}</th><td>{escape(item.reason)}</td></tr>'
        for item in version.refused
    )
    table = f'<div class="wide"><table class="gate"><tbody>{lines}</tbody></table></div>'
    return section("Refused sources", table)


def _spoken(member: str) -> str:
    """vi_low_light -> VI low light."""
    words = member.replace("_", " ").replace("+", " + ").replace(" gt", " reference").split()
    return " ".join(word.upper() if word in ("vi", "ir") else word for word in words)
