"""Contrastive groups as references: no picture is copied, every member is named.

K positives, M negatives (the last of which is the other modality's anchor, so M - 1 are named here).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.catalogue import CLEAN, Modality
from pipelines.datasets.plan import ShardConfig
from pipelines.sources.scenes import Scene
from pipelines.store.seeding import rng_at


class Group(BaseModel):
    """One training sample of a scene and its contrastive company (spec 3.2).

    `vi` and `ir` are the degradations of the two anchors ("clean" for none); the positives are ids
    of other scenes of the same shard, taken in the anchor's degradation; `negatives` are members
    ("vi_blur", "ir_clean") of the anchor's own scene, shared by both anchors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vi: str
    ir: str
    vi_positives: tuple[str, ...]
    ir_positives: tuple[str, ...]
    negatives: tuple[str, ...]


def members_of(config: ShardConfig, cameras: Sequence[Modality] = ("vi", "ir")) -> tuple[str, ...]:
    """Every picture that a scene with these cameras has: "vi_clean", "vi_blur", …, "ir_clean", …"""
    names = {"vi": config.vi, "ir": config.ir}
    return tuple(f"{camera}_{name}" for camera in cameras for name in (CLEAN, *names[camera]))


def draw_groups(scene: Scene, shard_scenes: Sequence[Scene], config: ShardConfig) -> list[Group]:
    """Draw the groups that `scene` anchors, by the config's `pairing`.

    A scene with one camera anchors none and is nobody's positive.
    Negatives are drawn from all other variants of the scene, not the first six in a fixed order,
    which would make low light and haze almost never a negative (spec 7.2).
    """
    if len(scene.cameras) < 2:
        return []
    others = [
        other.id for other in shard_scenes if other.id != scene.id and len(other.cameras) == 2
    ]
    rng = rng_at(config.seed, scene.digest, "groups")
    members = members_of(config)
    groups = []
    for vi, ir in _anchors(config, rng):
        candidates = [member for member in members if member not in (f"vi_{vi}", f"ir_{ir}")]
        groups.append(
            Group(
                vi=vi,
                ir=ir,
                vi_positives=_draw(rng, others, config.num_positives),
                ir_positives=_draw(rng, others, config.num_positives),
                negatives=_draw(rng, candidates, config.num_negatives - 1),
            )
        )
    return groups


def _anchors(config: ShardConfig, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    if config.pairing == "matched":
        yield from zip(config.vi, config.ir, strict=True)
        return
    for vi in (CLEAN, *config.vi):
        yield vi, str(rng.choice((CLEAN, *config.ir)))


def pictures_of_group(scene: str, group: Group) -> Iterator[tuple[str, str]]:
    """Scene and member of every picture of a group that `scene` anchors, but the clean targets."""
    yield from ((scene, f"vi_{group.vi}"), (scene, f"ir_{group.ir}"))
    yield from ((scene, member) for member in group.negatives)
    yield from ((other, f"vi_{group.vi}") for other in group.vi_positives)
    yield from ((other, f"ir_{group.ir}") for other in group.ir_positives)


def _draw(rng: np.random.Generator, pool: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(pool[index] for index in rng.choice(len(pool), count, replace=False))
