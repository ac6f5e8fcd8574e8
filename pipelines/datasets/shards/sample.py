"""A scene as a sample of a shard, made from its sources. The sample schema lives here.

A scene is the sample `<id>`:

    <id>.vi_gt.npy.zst     <id>.ir_gt.npy.zst           the clean pair, uint8 H×W×C (or .png)
    <id>.vi_blur.npy.zst   <id>.ir_stripe_noise.npy.zst each variant
    <id>.vi_clean.npy.zst  <id>.ir_clean.npy.zst        a native undegraded input, unlike its target
    <id>.json              SampleMeta: sizes, degradation records, contrastive groups

A scene with one camera has that camera's fields only, and no groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degradations.catalogue import CLEAN, Modality
from degradations.chain import Applied, apply_and_record, draw_chain
from degradations.own import parts_of
from pipelines.datasets.groups import Group, draw_groups, members_of
from pipelines.datasets.plan import SCHEMA_VERSION, ShardConfig, ShardSpec
from pipelines.datasets.shards.picture_codecs import CODECS, decode_stored
from pipelines.sources.pictures import MOST_PIXELS
from pipelines.sources.scenes import Read, Scene, load_native, load_picture, read_file
from pipelines.store.seeding import rng_at


class SampleMeta(BaseModel):
    """The `<id>.json` of a sample. `variants` maps a member ("vi_blur") to its record.

    A scene with one camera has None for the digest of the other, and members of its own camera only.
    `natives` maps the members that were files already to their sha256; without any it is left out,
    so that the samples of other sources keep their bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    dataset: str
    split: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    vi_sha256: str | None
    ir_sha256: str | None
    variants: dict[str, tuple[Applied, ...]]
    groups: tuple[Group, ...]
    natives: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_a_size_that_fits(self) -> Self:
        if self.width * self.height > MOST_PIXELS:
            raise ValueError(f"{self.width}x{self.height}: {MOST_PIXELS} pixels are the most")
        if not self.cameras:
            raise ValueError(f"{self.id}: it has neither a visible nor an infrared picture")
        return self

    @property
    def cameras(self) -> tuple[Modality, ...]:
        """The cameras that it has pictures of, "vi" first."""
        vi: tuple[Modality, ...] = () if self.vi_sha256 is None else ("vi",)
        return vi if self.ir_sha256 is None else (*vi, "ir")

    @property
    def num_images(self) -> int:
        """Pictures that the shard stores of it."""
        return len(self.cameras) + len(self.variants) + len(self.natives)

    def chain(self, member: str) -> tuple[Applied, ...]:
        """What was done to a picture ("vi_blur"), nothing to a clean one.

        Raises ValueError for a native file: what was done to it was not recorded.
        """
        if member in self.natives:
            raise ValueError(f"{member} is a native file; no record says what was done to it")
        return () if _is_clean(member) else self.variants[member]


def make_sample(
    scene: Scene,
    spec: ShardSpec,
    read: Read = read_file,
    copied: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[dict[str, str | bytes], SampleMeta]:
    """Degrade one scene in every way its spec names; return the WebDataset sample and its meta.

    Members that are `copied`, by name, are taken as they are.
    """
    suffix, encode = CODECS[spec.config.image_codec]
    target = _targets(scene, read, copied, suffix)
    pictures = dict(copied)
    for camera in scene.cameras:
        if f"{camera}_gt" not in copied:
            pictures[f"{camera}_gt"] = encode(target(camera))
    natives = _add_natives(pictures, scene, spec.config, read, target)
    variants = _draw_variants(scene, spec.config)
    for member in variants.keys() - copied.keys():
        camera = _camera_of(member)
        degraded, variants[member] = apply_and_record(target(camera), camera, variants[member])
        pictures[member] = encode(degraded)
    groups = tuple(draw_groups(scene, spec.scenes, spec.config))
    same = {"id", "dataset", "split", "width", "height", "vi_sha256", "ir_sha256"}
    known = scene.model_dump(include=same)
    meta = SampleMeta(**known, variants=variants, groups=groups, natives=natives)
    text = meta.model_dump_json(exclude=None if natives else {"natives"})
    # WebDataset appends fields in sorted order; `__key__` is the prefix of every member.
    fields = {f"{member}.{suffix}": data for member, data in pictures.items()}
    return {"__key__": scene.id, **fields, "json": text.encode()}, meta


def _targets(
    scene: Scene, read: Read, copied: Mapping[str, bytes], suffix: str
) -> Callable[[Modality], np.ndarray]:
    """The clean picture of each camera: of what is copied, else of its source; made once."""

    @functools.cache
    def target(camera: Modality) -> np.ndarray:
        member = f"{camera}_gt"
        if member not in copied:
            return load_picture(scene, camera, read)
        shape = (scene.height, scene.width, 3 if camera == "vi" else 1)
        return decode_stored(copied[member], f"{member}.{suffix}", shape)

    return target


def _add_natives(
    pictures: dict[str, bytes],
    scene: Scene,
    config: ShardConfig,
    read: Read,
    target: Callable[[Modality], np.ndarray],
) -> dict[str, str]:
    """Add each native variant that the recipe names; return the sha256 of those that are stored.

    A clean input that is the stored target itself is not.
    """
    _, encode = CODECS[config.image_codec]
    natives = {native.member: native for native in scene.natives}
    stored = {}
    for member in members_of(config, scene.cameras):
        if member not in natives:
            continue
        if member not in pictures:
            picture = load_native(scene, member, read)
            if _is_clean(member) and np.array_equal(picture, target(_camera_of(member))):
                continue
            pictures[member] = encode(picture)
        stored[member] = natives[member].sha256
    return stored


def _draw_variants(scene: Scene, config: ShardConfig) -> dict[str, tuple[Applied, ...]]:
    """The record of each variant that is not clean and no native file."""
    variants = {}
    natives = [native.member for native in scene.natives]
    for member in members_of(config, scene.cameras):
        if member not in natives and not _is_clean(member):
            camera, names = _camera_of(member), parts_of(member.partition("_")[2])
            rng = rng_at(config.seed, scene.digest, member)
            ranges, own = config.ranges(camera), config.own.of(camera)
            variants[member] = draw_chain(camera, names, rng, ranges=ranges, own=own)
    return variants


def _camera_of(member: str) -> Modality:
    return "vi" if member.startswith("vi") else "ir"


def _is_clean(member: str) -> bool:
    return member.endswith(f"_{CLEAN}")
