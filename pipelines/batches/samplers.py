"""What a sample is: three named samplers, each with the batch fields that it has.

- "groups": a contrastive group, that is a degraded pair with positives and negatives.
- "pairs": the anchors of a group alone; the same samples, order and draws as "groups".
- "singles": one picture, by scene, camera and variant; also of scenes with one camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from degradations.catalogue import Modality
from degradations.operators import is_linear
from degradations.own import parts_of
from pipelines.datasets.group_index import pictures_of
from pipelines.datasets.groups import Group, pictures_of_group
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.shards.reading import ShardReader

SamplerName = Literal["groups", "pairs", "singles"]

_PAIR = frozenset(
    {"vi_lq", "vi_gt", "ir_lq", "ir_gt", "vi_op", "ir_op", "vi_task", "ir_task", "seed"}
)
SAMPLER_FIELDS: dict[SamplerName, frozenset[str]] = {
    "groups": _PAIR | {"vi_pos", "ir_pos", "neg"},
    "pairs": _PAIR,
    "singles": frozenset({"lq", "gt", "camera", "op", "task", "seed"}),
}
# In the order of the batch field `camera`.
CAMERAS: tuple[Modality, ...] = ("ir", "vi")


@dataclass(frozen=True)
class GroupSample:
    """A contrastive group in its shard; `scene` is the anchors'."""

    reader: ShardReader
    scene: str
    group: Group

    @property
    def anchors(self) -> dict[Modality, str]:
        """What each camera's anchor suffers."""
        return {"vi": self.group.vi, "ir": self.group.ir}


@dataclass(frozen=True)
class SingleSample:
    """One picture in its shard; `variant` is what it suffers, "clean" for nothing."""

    reader: ShardReader
    scene: str
    camera: Modality
    variant: str

    @property
    def anchors(self) -> dict[Modality, str]:
        """What its camera's picture suffers."""
        return {self.camera: self.variant}


Sample = GroupSample | SingleSample


def samples_of(reader: ShardReader, sampler: SamplerName) -> Iterator[Sample]:
    """Every sample of a shard, in order of scene id."""
    for scene, meta in sorted(reader.metas.items()):
        if sampler != "singles":
            yield from (GroupSample(reader, scene, group) for group in meta.groups)
            continue
        for member in pictures_of(meta):
            camera, _, variant = member.partition("_")
            yield SingleSample(reader, scene, "vi" if camera == "vi" else "ir", variant)


def check_fields(sampler: SamplerName, fields: Sequence[str]) -> None:
    """Raise ValueError, naming sampler and fields, when a field is none that the sampler has."""
    if sampler not in SAMPLER_FIELDS:
        raise ValueError(f"no sampler {sampler!r}; known: {', '.join(SAMPLER_FIELDS)}")
    unknown = sorted(set(fields) - SAMPLER_FIELDS[sampler])
    if unknown:
        known = ", ".join(sorted(SAMPLER_FIELDS[sampler]))
        raise ValueError(f"sampler {sampler!r} has no batch fields {unknown}; it has: {known}")


def check_operators(rows: pa.Table, sampler: SamplerName) -> None:
    """Raise ValueError, naming the picture, when a degradation in use has no linear operator.

    `rows` are those of the version's index. Before training: the first batch that meets such a picture
    may be hours away.
    """
    columns = {"pictures": ""} if sampler == "singles" else {"vi": "vi_", "ir": "ir_"}
    for column, prefix in columns.items():
        lists = rows[column].combine_chunks()
        names, parents = pc.list_flatten(lists), pc.list_parent_indices(lists)
        for name in pc.unique(names).to_pylist():
            camera, _, variant = f"{prefix}{name}".partition("_")
            if not is_linear("vi" if camera == "vi" else "ir", parts_of(variant)):
                row = parents[pc.index(names, name).as_py()].as_py()
                raise ValueError(
                    f"scene {rows['scene'][row].as_py()!r}, {camera}_{variant}: {variant!r} has no "
                    "linear operator; train on a dataset of degradations that have one"
                )
    brought = rows.filter(pc.greater(pc.list_value_length(rows["natives"]), 0))
    for row in brought.select(["scene", "natives", *columns]).to_pylist():
        used = {f"{prefix}{name}" for column, prefix in columns.items() for name in row[column]}
        for member in used.intersection(row["natives"]):
            raise ValueError(
                f"scene {row['scene']!r}: {member} is a native file; no record says what was done to it"
            )


def check_groups(reader: ShardReader, config: ShardConfig) -> None:
    """Raise ValueError for a group of absent pictures, or of fewer or more than the recipe's."""
    wanted = (config.num_positives, config.num_positives, config.num_negatives - 1)
    for scene, meta in reader.metas.items():
        for group in meta.groups:
            shown = f"scene {scene!r}, group {group.vi}/{group.ir}"
            counts = tuple(map(len, (group.vi_positives, group.ir_positives, group.negatives)))
            if counts != wanted:
                raise ValueError(
                    f"{shown}: {counts} positives and negatives, the recipe says {wanted}"
                )
            for other, member in pictures_of_group(scene, group):
                if not reader.has_image(other, member):
                    raise ValueError(f"{shown} refers to {other}.{member}, which is absent")
