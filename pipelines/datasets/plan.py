"""From a dataset recipe and a scene index to shard specs: pure and deterministic.

Scenes go to shards by a hash of their id, along a binary trie that is split only where both halves
stay large enough. So adding or changing one scene touches one shard (two when it makes that one
split), and no shard is too small to hold a contrastive group. Scenes with one camera, which are in no
group, have shards of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, Self, overload

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degradations import catalogue
from degradations.catalogue import IrRanges, Modality, ViRanges
from degradations.own import OwnTransforms, check_names, parts_of
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.seeding import digest_of

# Part of every content address: raise it when the same inputs come to mean other bytes.
SCHEMA_VERSION = 1


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
    num_positives: int = Field(default=3, ge=1)
    """Positives of a modality in a contrastive group (K)."""
    num_negatives: int = Field(default=7, ge=2)
    """Negatives of a group (M): M - 1 of the anchor's scene, and the other modality's anchor."""
    pairing: Literal["drawn", "matched"] = "drawn"
    """Anchors of a group: each visible degradation, and clean, with a drawn infrared one; or the first
    visible with the first infrared one, the second with the second, and nothing clean."""
    seed: int = 0
    """Every random number of the shards comes from it."""
    image_codec: Literal["strips", "png"] = "strips"
    """Strips are zstd arrays of which a crop decodes its rows only; PNG is for plain readers and people."""

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
        # All variants of a scene (clean ones too) without the two anchors.
        candidates = len(self.vi) + len(self.ir)
        if candidates < self.num_negatives - 1:
            raise ValueError(
                f"{candidates} degradations give {candidates} negatives within a scene, but "
                f"num_negatives={self.num_negatives} needs {self.num_negatives - 1}; name more in vi or ir"
            )
        return self

    def address(self) -> dict[str, object]:
        """What of this goes into the content address: ranges only of the degradations in use."""
        # Left out where unused: a shard keeps its address when the configuration learns something new.
        used: dict[str, object] = {"own": self.own.address()} if self.own else {}
        used |= {"pairing": self.pairing} if self.pairing != "drawn" else {}
        apart = {"vi_ranges", "ir_ranges", "own", "pairing"}
        return self.model_dump(mode="json", exclude=apart) | {
            "vi_ranges": self.vi_ranges.model_dump(mode="json", include=self._parts("vi")),
            "ir_ranges": self.ir_ranges.model_dump(mode="json", include=self._parts("ir")),
            **used,
        }

    def names(self, camera: Modality) -> tuple[str, ...]:
        """What the pictures of a camera suffer, besides nothing."""
        return self.vi if camera == "vi" else self.ir

    def ranges(self, camera: Modality) -> ViRanges | IrRanges:
        """How strong the catalogue's degradations of a camera are."""
        return self.vi_ranges if camera == "vi" else self.ir_ranges

    def _parts(self, camera: Modality) -> set[str]:
        return {part for name in self.names(camera) for part in parts_of(name)}


class DatasetConfig(BaseModel):
    """A dataset recipe: which scenes, how many a shard, and what is made of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    """The version's name, after the scene index's."""
    split: str = "train"
    """Which scenes of the index."""
    scenes_per_shard: int = Field(default=64, ge=1)
    """A shard with more scenes is split, where both halves stay large enough for a group."""
    max_refused_share: float = Field(default=0.01, ge=0, le=1)
    """A larger share of refused pairs stops the job."""
    shard: ShardConfig = ShardConfig()


class ShardSpec(BaseModel):
    """One shard to be made: everything that decides its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: tuple[Scene, ...]
    config: ShardConfig

    @property
    def name(self) -> str:
        """Content address of the shard; its file is `<name>.tar`."""
        return _address(self.config.address(), [scene.digest for scene in self.scenes])


def _address(config: dict[str, object], digests: Sequence[str]) -> str:
    """Digest of what a shard is made of; the scenes' digests in order of their ids."""
    return digest_of({"schema": SCHEMA_VERSION, "config": config, "scenes": digests})[:24]


class ShardPlan(Sequence[ShardSpec]):
    """The shards of a dataset; a spec is built when it is indexed: a plan holds places of scenes only."""

    def __init__(
        self, config: ShardConfig, scenes: SceneTable, leaves: Sequence[np.ndarray]
    ) -> None:
        self._config, self._scenes, self._leaves = config, scenes, leaves

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
        return ShardSpec(scenes=ordered, config=self._config)

    def names(self) -> list[str]:
        """Content addresses of all shards, in order; those of `ShardSpec.name`, without the specs."""
        config, ids, digests = self._config.address(), self._scenes.ids(), self._scenes.digests()
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
        return ShardPlan(self._config, self._scenes, [self._leaves[place] for place in places])

    @property
    def num_scenes(self) -> int:
        """Scenes in all shards."""
        return sum(map(len, self._leaves))


def plan_shards(config: DatasetConfig, scenes: Sequence[Scene]) -> ShardPlan:
    """Assign every scene to a shard. Raises ValueError when there are too few pairs for one group."""
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
    return ShardPlan(config.shard, table, leaves)


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
