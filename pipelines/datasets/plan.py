"""From a dataset recipe and a scene index to shard specs: pure and deterministic.

Scenes go to shards by a hash of their id, along a binary trie that is split only where both halves
stay large enough. So adding or changing one scene touches one shard (two when it makes that one
split), and no shard is too small to hold a contrastive group. Scenes with one camera, which are in no
group, have shards of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degradations import catalogue
from degradations.catalogue import CLEAN, IrRanges, Modality, ViRanges
from degradations.own import OwnTransforms, check_names, parts_of
from pipelines.datasets.shards import row_strips
from pipelines.sources import pictures
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.seeding import Seed, digest_of

# Part of every content address: raise it when a sample's fields or a group's draw come to mean others.
# Kernels and codecs have versions of their own.
SCHEMA_VERSION = 2
_CAMERAS: tuple[Modality, ...] = ("vi", "ir")
_CODEC_VERSIONS = {"png": pictures.CODEC_VERSION, "strips": row_strips.CODEC_VERSION}


class CodeVersions(BaseModel):
    """Versions of the code that decides the bytes of a shard, of what its recipe uses.

    `reading` is the decoding of source pictures, `codec` the encoding of a shard's; a kernel is named
    by the member that it makes ("vi_blur"), and so is what a transform of the recipe's own runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    reading: int
    codec: int
    kernels: dict[str, int]
    own: dict[str, dict[str, Any]] = {}


class ShardConfig(BaseModel):
    """What decides the bytes of a shard, besides its scenes.

    `vi` and `ir` name the degradations stored for every scene, of the catalogue or of `own`; the clean
    picture is always there. "gaussian_blur+gaussian_noise" is a picture that suffers one after the other.
    A group has `num_positives` K positives a modality and `num_negatives` M negatives, of which
    M - 1 are other variants of the anchor's scene and one is the other modality's anchor.
    `image_codec`: "strips" are zstd arrays of which a crop decodes its rows only; "png" is for readers
    that must be plain, and for people who unpack a tar to look at it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    vi: tuple[str, ...] = catalogue.names("vi")
    """Degradations of the visible picture that are stored for every scene."""
    ir: tuple[str, ...] = catalogue.names("ir")
    """Degradations of the infrared picture that are stored for every scene."""
    vi_ranges: ViRanges = ViRanges()
    ir_ranges: IrRanges = IrRanges()
    own: OwnTransforms = OwnTransforms()
    """Degradations of your own, serialised albumentations transforms, to be named in `vi` and `ir`."""
    num_positives: int = Field(default=3, ge=1, le=1000)
    """Positives of a modality in a contrastive group (K)."""
    num_negatives: int = Field(default=7, ge=2)
    """Negatives of a group (M): M - 1 of the anchor's scene, and the other modality's anchor."""
    pairing: Literal["drawn", "matched"] = "drawn"
    """Anchors of a group: each visible degradation, and clean, with a drawn infrared one; or the first
    visible with the first infrared one, the second with the second, and nothing clean."""
    seed: Seed = 0
    """Every random number of the shards comes from it."""
    image_codec: Literal["strips", "png"] = "strips"
    """Strips are zstd arrays of which a crop decodes its rows only; PNG is for plain readers and people."""
    rebuilt: dict[str, int] = {}
    """How often a degradation ("clean": the clean pictures) was made again on purpose: `--rebuild`."""

    @model_validator(mode="after")
    def _known_and_enough(self) -> Self:
        for camera in ("vi", "ir"):
            check_names(camera, self.names(camera), self.own)
            unused = sorted(set(self.own.of(camera)) - self._parts(camera))
            if unused:
                raise ValueError(
                    f"own.{camera} has {unused}, which {camera} does not name; name it"
                )
        for names in (self.vi, self.ir):
            if len(set(names)) != len(names):
                raise ValueError(f"a degradation is named twice in {list(names)}")
        if self.pairing == "matched" and len(self.vi) != len(self.ir):
            raise ValueError(
                f"pairing=matched, but vi names {len(self.vi)} degradations and ir {len(self.ir)}; name "
                "as many of each"
            )
        for name in self.rebuilt.keys() - {CLEAN, *self.vi, *self.ir}:
            raise ValueError(
                f"rebuilt: {name!r} is none of the recipe's degradations, nor {CLEAN!r}"
            )
        # All variants of a scene (clean ones too) without the two anchors.
        candidates = len(self.vi) + len(self.ir)
        if candidates < self.num_negatives - 1:
            raise ValueError(
                f"{candidates} degradations give {candidates} negatives within a scene, but "
                f"num_negatives={self.num_negatives} needs {self.num_negatives - 1}; name more in vi or ir"
            )
        return self

    def code_versions(self) -> CodeVersions:
        """The versions of what this recipe uses, in the code that runs."""
        kernels = {
            f"{camera}_{part}": catalogue.find(camera, part).version
            for camera in _CAMERAS
            for part in self._parts(camera) - set(self.own.of(camera))
        }
        return CodeVersions(
            schema_version=SCHEMA_VERSION,
            reading=pictures.CODEC_VERSION,
            codec=_CODEC_VERSIONS[self.image_codec],
            kernels=kernels,
            own={
                f"{camera}_{name}": {
                    "albumentations": made["albumentations"],
                    "kernels": made["kernels"],
                }
                for camera, transforms in self.own.address().items()
                for name, made in transforms.items()
            },
        )

    def member_addresses(self, code: CodeVersions) -> dict[str, object]:
        """What decides the bytes of each picture beside its scene, by member ("vi_gt", "vi_blur", …).

        Pictures of a scene with equal addresses have equal bytes, whatever else the recipes hold.
        """
        clean = [code.reading, self.image_codec, code.codec, self.rebuilt.get(CLEAN, 0)]
        addresses: dict[str, object] = {}
        for camera in _CAMERAS:
            addresses |= {f"{camera}_gt": clean, f"{camera}_{CLEAN}": clean}
            for name in self.names(camera):
                addresses[f"{camera}_{name}"] = {
                    "clean": clean,
                    "seed": self.seed,
                    "rebuilt": self.rebuilt.get(name, 0),
                    "parts": [self._part_address(camera, part, code) for part in parts_of(name)],
                }
        return addresses

    def _part_address(self, camera: Modality, part: str, code: CodeVersions) -> list[object]:
        if part in self.own.of(camera):
            # Not what this process would run: an old version keeps the address that it was made at.
            return [part, self.own.of(camera)[part], code.own[f"{camera}_{part}"]]
        ranges = getattr(self.ranges(camera), part).model_dump(mode="json")
        return [part, code.kernels[f"{camera}_{part}"], ranges]

    def address(self, code: CodeVersions | None = None) -> dict[str, object]:
        """What goes into the content address; by default with the versions of the code that runs."""
        code = code or self.code_versions()
        # Left out where unused: a shard keeps its address when the configuration learns something new.
        pairing = [self.pairing] if self.pairing != "drawn" else []
        counts = [self.num_positives, self.num_negatives]
        return {
            "schema": code.schema_version,
            "members": self.member_addresses(code),
            # The groups are drawn from these, in this order.
            "groups": [self.seed, self.vi, self.ir, *counts, *pairing],
        }

    def names(self, camera: Modality) -> tuple[str, ...]:
        """What the pictures of a camera suffer, besides nothing."""
        return self.vi if camera == "vi" else self.ir

    def ranges(self, camera: Modality) -> ViRanges | IrRanges:
        """How strong the catalogue's degradations of a camera are."""
        return self.vi_ranges if camera == "vi" else self.ir_ranges

    def own_members(self) -> set[str]:
        """The members ("vi_motion_blur") that are made by a transform of the recipe's own."""
        return {
            f"{camera}_{name}"
            for camera in _CAMERAS
            for name in self.names(camera)
            if not self.own.of(camera).keys().isdisjoint(parts_of(name))
        }

    def _parts(self, camera: Modality) -> set[str]:
        return {part for name in self.names(camera) for part in parts_of(name)}


class DatasetConfig(BaseModel):
    """A dataset recipe: which scenes, how many a shard, and what is made of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[a-z0-9_-]+$", max_length=100)
    """The version's name, after the scene index's."""
    split: str = "train"
    """Which scenes of the index."""
    scenes_per_shard: int = Field(default=64, ge=1, le=100_000)
    """A shard with more scenes is split, where both halves stay large enough for a group."""
    max_refused_share: float = Field(default=0.01, ge=0, le=1)
    """A larger share of refused pairs stops the job."""
    shard: ShardConfig = ShardConfig()


class OlderShard(BaseModel):
    """A shard of an earlier version with the same scenes, of which some `members` are the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    libraries: tuple[str, ...]
    members: tuple[str, ...]


class ShardSpec(BaseModel):
    """One shard to be made: everything that decides its bytes.

    `older` decides nothing: it is where bytes can be copied from that are cheaper so than made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: tuple[Scene, ...]
    config: ShardConfig
    older: OlderShard | None = None

    @property
    def name(self) -> str:
        """Content address of the shard; its file is `<name>.tar`."""
        return _address(digest_of(self.config.address()), [scene.digest for scene in self.scenes])


def _address(config_digest: str, digests: Sequence[str]) -> str:
    """Digest of what a shard is made of; the scenes' digests in order of their ids."""
    return digest_of([config_digest, digests])[:24]


@dataclass(frozen=True)
class Earlier:
    """An earlier version to copy from: its shards by name, its recipe, and the code that made it."""

    config: ShardConfig
    code: CodeVersions
    shards: Mapping[str, OlderShard]


class ShardPlan(Sequence[ShardSpec]):
    """The shards of a dataset; a spec is built when it is indexed: a plan holds places of scenes only."""

    def __init__(
        self,
        config: ShardConfig,
        scenes: SceneTable,
        leaves: Sequence[np.ndarray],
        earlier: Earlier | None = None,
    ) -> None:
        self._config, self._scenes, self._leaves = config, scenes, leaves
        self._earlier = earlier
        self._earlier_digest = digest_of(earlier.config.address(earlier.code)) if earlier else ""

    def __len__(self) -> int:
        return len(self._leaves)

    @overload
    def __getitem__(self, place: int) -> ShardSpec: ...
    @overload
    def __getitem__(self, place: slice) -> ShardPlan: ...
    def __getitem__(self, place: int | slice) -> ShardSpec | ShardPlan:
        if isinstance(place, slice):
            return self.only(range(len(self))[place])
        members = (self._scenes[int(index)] for index in self._leaves[place])
        ordered = tuple(sorted(members, key=lambda scene: scene.id))
        return ShardSpec(scenes=ordered, config=self._config, older=self._older(ordered))

    def _older(self, scenes: Sequence[Scene]) -> OlderShard | None:
        """The earlier version's shard of the same scenes, if it has one."""
        if self._earlier is None:
            return None
        name = _address(self._earlier_digest, [scene.digest for scene in scenes])
        return self._earlier.shards.get(name)

    def names(self) -> list[str]:
        """Content addresses of all shards, in order; those of `ShardSpec.name`, without the specs."""
        config = digest_of(self._config.address())
        ids, digests = self._scenes.ids(), self._scenes.digests()
        return [
            _address(config, [digests[place] for place in sorted(leaf, key=ids.__getitem__)])
            for leaf in self._leaves
        ]

    def pixels(self) -> list[int]:
        """Pixels of each shard's scenes, in order: what its time and its bytes go with."""
        pixels = self._scenes.pixels()
        return [int(pixels[leaf].sum()) for leaf in self._leaves]

    def only(self, places: Iterable[int]) -> ShardPlan:
        """The shards at some places."""
        leaves = [self._leaves[place] for place in places]
        return ShardPlan(self._config, self._scenes, leaves, self._earlier)

    @property
    def num_scenes(self) -> int:
        """Scenes in all shards."""
        return sum(map(len, self._leaves))


def plan_shards(
    config: DatasetConfig, scenes: Sequence[Scene], earlier: Earlier | None = None
) -> ShardPlan:
    """Assign every scene to a shard; what is the same in an `earlier` version is copied from it.

    Raises ValueError when there are too few pairs for one group.
    """
    table = SceneTable.of(scenes)
    paired, most = table.are_pairs(), config.scenes_per_shard
    num_pairs, fewest = int(paired.sum()), config.shard.num_positives + 1
    if num_pairs < fewest and (num_pairs or not len(table)):
        raise ValueError(
            f"{num_pairs} scenes, but a group with {config.shard.num_positives} positives needs "
            f"at least {fewest}; scan more pairs or lower shard.num_positives"
        )
    bits = np.fromiter(map(_hash_bits, table.ids()), np.uint64, len(table))
    places = np.argsort(bits, kind="stable").astype(np.uint32)
    leaves = []
    for chosen, least in ((places[paired[places]], fewest), (places[~paired[places]], 1)):
        if len(chosen):
            leaves += _split(bits[chosen], chosen, depth=0, most=most, fewest=least)
    return ShardPlan(config.shard, table, leaves, earlier)


_NUM_BITS = 64


def _hash_bits(scene_id: str) -> int:
    return int.from_bytes(hashlib.sha256(scene_id.encode()).digest()[: _NUM_BITS // 8])


def _split(
    bits: np.ndarray, places: np.ndarray, *, depth: int, most: int, fewest: int
) -> list[np.ndarray]:
    """Cut a node of the trie, its hashes in order, where both halves stay large enough."""
    if len(bits) > most and depth < _NUM_BITS:
        bit = np.uint64(1 << (_NUM_BITS - 1 - depth))
        middle = int(np.count_nonzero(bits & bit == 0))
        if min(middle, len(bits) - middle) >= fewest:
            return [
                leaf
                for half in (slice(middle), slice(middle, None))
                for leaf in _split(
                    bits[half], places[half], depth=depth + 1, most=most, fewest=fewest
                )
            ]
    return [places]
