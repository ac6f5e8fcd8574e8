"""What a sample is: three named samplers, each with the batch fields that it has.

- "groups": a contrastive group, that is a degraded pair with positives and negatives.
- "pairs": the anchors of a group alone; the same samples, order and draws as "groups".
- "singles": one picture, by scene, camera and variant; also of scenes with one camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from degradations.catalogue import CLEAN, Modality
from degradations.operators import operator_numbers
from pipelines.datasets.groups import Group
from pipelines.datasets.shards import ShardReader

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
        members = [*meta.variants, *sorted(meta.natives)]
        for camera in (camera for camera in CAMERAS if camera in meta.cameras):
            names = [name for name in members if name.startswith(f"{camera}_")]
            variants = [name.removeprefix(f"{camera}_") for name in names]
            for variant in dict.fromkeys([CLEAN, *variants]):
                yield SingleSample(reader, scene, camera, variant)


def check_fields(sampler: SamplerName, fields: Sequence[str]) -> None:
    """Raise ValueError, naming sampler and fields, when a field is none that the sampler has."""
    if sampler not in SAMPLER_FIELDS:
        raise ValueError(f"no sampler {sampler!r}; known: {', '.join(SAMPLER_FIELDS)}")
    unknown = sorted(set(fields) - SAMPLER_FIELDS[sampler])
    if unknown:
        known = ", ".join(sorted(SAMPLER_FIELDS[sampler]))
        raise ValueError(f"sampler {sampler!r} has no batch fields {unknown}; it has: {known}")


def check_operators(samples: Sequence[Sample]) -> None:
    """Raise ValueError, naming the picture, when a degradation in use has no linear operator.

    Before training: the first batch that meets such a picture may be hours away.
    """
    firsts: dict[tuple[str, bool], tuple[Sample, str]] = {}
    for sample in samples:
        meta = sample.reader.metas[sample.scene]
        for camera, variant in sample.anchors.items():
            member = f"{camera}_{variant}"
            firsts.setdefault((member, member in meta.natives), (sample, member))
    for sample, member in firsts.values():
        try:
            operator_numbers(sample.reader.metas[sample.scene].chain(member))
        except ValueError as error:
            raise ValueError(f"scene {sample.scene!r}, {member}: {error}") from error
