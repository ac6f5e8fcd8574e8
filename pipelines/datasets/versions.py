"""Dataset versions: immutable manifests over content-addressed shards.

<root>/shards/<name>.tar, <name>.json       shards and their markers, shared by all versions
<root>/versions/<recipe>-<digest>.json      one manifest a version, written last
<root>/versions/<recipe>-<digest>.retiring  a version that is about to be deleted
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.datasets.group_index import index_of, publish_index
from pipelines.datasets.plan import (
    CodeVersions,
    DatasetConfig,
    Earlier,
    OlderShard,
    ShardConfig,
    ShardPlan,
)
from pipelines.datasets.shards.markers import ShardInfo, find_shards
from pipelines.sources.pairing import Refused
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.folders import Folder
from pipelines.store.names import check_name, first_few, nearest
from pipelines.store.seeding import digest_of

VERSIONS = "versions/"


class Made(NamedTuple):
    """By which commit of this code a version is made, and when (ISO 8601)."""

    commit: str
    created: str


class LeftOut(NamedTuple):
    """Files that were left out, at the scan and at the generation, and the scenes that the latter lacks."""

    refused: Sequence[Refused] = ()
    scene_ids: Collection[str] = ()


NOTHING = LeftOut()


class DatasetVersion(BaseModel):
    """A manifest. `digest` covers the data; commit and time record only who made it and when.

    `refused` are files that were left out, at the scan and at the generation; `quarantined` are the ids of
    the scenes that the generation left out for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    config: DatasetConfig
    code: CodeVersions
    scene_index_digest: str
    shards: tuple[ShardInfo, ...]
    refused: tuple[Refused, ...]
    quarantined: tuple[str, ...]
    commit: str
    created: str

    @property
    def name(self) -> str:
        """Name of the version: recipe and short digest."""
        return f"{self.config.name}-{self.digest[:12]}"

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages that drew and encoded its pixels; two of one name where it was made in parts."""
        return tuple(sorted({library for shard in self.shards for library in shard.libraries}))

    @property
    def num_scenes(self) -> int:
        """Scenes in all shards."""
        return sum(shard.num_scenes for shard in self.shards)

    @property
    def num_groups(self) -> int:
        """Contrastive groups, that is training samples, in all shards."""
        return sum(shard.num_groups for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.num_bytes for shard in self.shards)


def split_reuse(specs: ShardPlan, root: Folder) -> tuple[list[ShardInfo], ShardPlan]:
    """Split a plan into shards that exist whole (reused) and those to be written."""
    names = specs.names()
    whole = find_shards(root, names)
    missing = [place for place, name in enumerate(names) if name not in whole]
    return [whole[name] for name in names if name in whole], specs.only(missing)


def publish_version(
    root: Folder,
    config: DatasetConfig,
    scenes: Iterable[Scene],
    shards: Sequence[ShardInfo],
    made: Made,
    left_out: LeftOut = NOTHING,
) -> DatasetVersion:
    """Write the manifest, last and whole. An equal version that exists already is returned as it is.

    Raises ValueError when a shard is missing (a manifest lists whole shards only), or when the version
    is being retired.
    """
    _check_whole(root, shards)
    ordered = tuple(sorted(shards, key=lambda shard: shard.name))
    table = SceneTable.of(scenes)
    index_digest, code = digest_of(sorted(table.digests())), config.shard.code_versions()
    version = DatasetVersion(
        digest="",
        config=config,
        code=code,
        scene_index_digest=index_digest,
        shards=ordered,
        refused=tuple(left_out.refused),
        quarantined=tuple(sorted(left_out.scene_ids)),
        commit=made.commit,
        created=made.created,
    )
    version = version.model_copy(update={"digest": digest_of_contents(version)})
    _write_version(root, version)
    version = read_version(root, version.name)
    newest = _newest_of(config.name)
    if root.size_of(newest) is None or root.read(newest).decode() != version.name:
        root.replace(newest, version.name.encode())
    return version


def _check_whole(root: Folder, shards: Sequence[ShardInfo]) -> None:
    whole = find_shards(root, [shard.name for shard in shards])
    gone = [shard.name for shard in shards if whole.get(shard.name) != shard]
    if gone:
        raise ValueError(f"{len(gone)} shards vanished, {gone[0]} first; run jobs.generate again")


def _write_version(root: Folder, version: DatasetVersion) -> None:
    """Write a version's index and then its manifest, unless they are there."""
    if root.size_of(_retiring(version.name)) is not None:
        raise ValueError(
            f"{version.name} is being retired; run the same command again when that has ended, or "
            f"delete {root.uri}/{_retiring(version.name)} if it was interrupted"
        )
    if root.size_of(index_of(version.name)) is None:
        publish_index(root, version.name, [shard.name for shard in version.shards])
    if root.size_of(manifest_of(version.name)) is None:
        try:
            root.write_once(manifest_of(version.name), version.model_dump_json(indent=1).encode())
        except ValueError:
            # Another driver was quicker: the same data, by its name, at a time and commit of its own.
            if read_version(root, version.name).digest != version.digest:
                raise


def digest_of_contents(version: DatasetVersion) -> str:
    """What a manifest's `digest` has to be: that of recipe, code, scenes, and the shards' bytes."""
    # As in a shard's address, ranges that nothing uses do not make another version.
    recipe = version.config.model_dump(mode="json", exclude={"shard"})
    address, index = version.config.shard.address(version.code), version.scene_index_digest
    return digest_of([recipe, address, index, [shard.sha256 for shard in version.shards]])


def earlier_of(version: DatasetVersion, config: ShardConfig) -> Earlier:
    """What a plan of `config` can copy from `version`."""
    before = version.config.shard.member_addresses(version.code)
    now = config.member_addresses(config.code_versions())
    # What a transform of the recipe's own drew is known when it is applied, so these are made again.
    same = {member for member, address in now.items() if before.get(member) == address}
    members = tuple(member for member in now if member in same - config.own_members())
    shards = {
        shard.name: OlderShard(
            name=shard.name, sha256=shard.sha256, libraries=shard.libraries, members=members
        )
        for shard in version.shards
        if members
    }
    return Earlier(version.config.shard, version.code, shards)


def manifest_of(name: str) -> str:
    """Where below the root the manifest of version `name` lies."""
    return f"{VERSIONS}{check_name(name, 'dataset version')}.json"


def _newest_of(recipe: str) -> str:
    # A pointer, not the time in the manifests: going back to an old recipe publishes an old version
    # again, and that is then what the recipe's name means.
    return f"{VERSIONS}{recipe}.newest"


def find_version(root: Folder, name: str) -> DatasetVersion:
    """Find a version by its full name, or the one that a recipe published last by the recipe's name.

    Raises ValueError that lists what there is, or when the version is being retired.
    """
    is_whole_name = root.size_of(manifest_of(name)) is not None
    version = read_version(root, name) if is_whole_name else newest_version(root, name)
    if version:
        if root.size_of(_retiring(version.name)) is not None:
            raise ValueError(f"{version.name} is being retired; generate it again, or use another")
        return version
    if not root.may_list:
        raise ValueError(
            f"no dataset version {name!r} in {root.uri}, whose names these credentials may not list "
            "(s3:ListBucket)"
        )
    there = version_names(root)
    recipes = {version.rpartition("-")[0] for version in there}
    shown = ", ".join(there) or "none yet; run jobs.generate first"
    hint = nearest(name, [*recipes, *there])
    raise ValueError(f"no dataset version {name!r} in {root.uri}{hint}; there is: {shown}")


def newest_version(root: Folder, recipe: str) -> DatasetVersion | None:
    """The version that a recipe published last, None when it has none."""
    if root.size_of(_newest_of(recipe)) is None:
        return None
    name = root.read(_newest_of(recipe)).decode()
    # Somebody may have deleted a manifest by hand.
    return read_version(root, name) if root.size_of(manifest_of(name)) is not None else None


def list_versions(root: Folder) -> list[DatasetVersion]:
    """All versions, in order of name. Raises ValueError when a manifest cannot be read."""
    return [read_version(root, name) for name in version_names(root)]


def retire_version(root: Folder, name: str, in_use: Callable[[], Sequence[str]]) -> None:
    """Delete the manifest of version `name`, which makes its shards garbage.

    `in_use` names what needs it. Readers refuse the version before it is asked for the last time, and
    a training looks at the version after it is to be seen there, so that neither overlooks the other.
    Raises ValueError when something needs it.
    """
    version = read_version(root, name)
    _check_unused(version, in_use())
    mark = _retiring(name)
    root.replace(mark, b"")
    try:
        _check_unused(version, in_use())
    except BaseException:
        root.remove(mark)
        raise
    newest = _newest_of(version.config.name)
    if root.size_of(newest) is not None and root.read(newest).decode() == name:
        root.remove(newest)
    root.remove(manifest_of(name))
    # What else belongs to the manifest, and the mark last.
    beside = sorted(root.entries(f"{VERSIONS}{name}."), key=lambda entry: entry.name == mark)
    for entry in beside:
        root.delete(entry)


def _check_unused(version: DatasetVersion, users: Sequence[str]) -> None:
    if users:
        shown = first_few(users, most=5)
        raise ValueError(f"{version.name} is needed by {shown}; delete these first, or keep it")


def _retiring(name: str) -> str:
    return f"{VERSIONS}{name}.retiring"


def version_names(root: Folder) -> list[str]:
    """Names of all versions, in order."""
    return [
        entry.name.removeprefix(VERSIONS).removesuffix(".json")
        for entry in root.entries(VERSIONS)
        if entry.name.endswith(".json")
    ]


def read_version(root: Folder, name: str) -> DatasetVersion:
    """Read the manifest of version `name`. Raises ValueError when it is absent, not one, or edited."""
    where = f"{root.uri}/{manifest_of(name)}"
    try:
        version = DatasetVersion.model_validate_json(root.read(manifest_of(name)))
    except FileNotFoundError as error:
        raise ValueError(f"{where}: no such dataset version") from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "its text"
        raise ValueError(
            f"{where}: not a dataset manifest of this code ({at}: {first['msg']}); delete it, and "
            "generate the version again"
        ) from error
    if problem := _contradiction(version, name):
        raise ValueError(f"{where}: {problem}; it was edited; generate the version again")
    return version


def _contradiction(version: DatasetVersion, name: str) -> str | None:
    """What a manifest says that its contents do not bear out."""
    names = [shard.name for shard in version.shards]
    if not names:
        return "it lists no shard"
    if len({*names}) != len(names):
        return f"it lists shard {next(one for one in names if names.count(one) > 1)} twice"
    now = version.config.shard.code_versions()
    if (now.kernels.keys(), now.own.keys()) != (
        version.code.kernels.keys(),
        version.code.own.keys(),
    ):
        return "its kernels are not those of its recipe"
    if digest_of_contents(version) != version.digest:
        return "its digest is not that of its contents"
    if version.name != name:
        return f"it is the manifest of {version.name}"
    return None
