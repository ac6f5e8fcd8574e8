"""Dataset versions: immutable manifests over content-addressed shards.

<root>/shards/<name>.tar, <name>.json       shards and their markers, shared by all versions
<root>/versions/<recipe>-<digest>.json      one manifest a version, written last
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.files import write_whole
from pipelines.layouts import Refused
from pipelines.plan import DatasetConfig, ShardSpec
from pipelines.scenes import Scene
from pipelines.seeding import digest_of
from pipelines.shards import ShardInfo, find_shard


class DatasetVersion(BaseModel):
    """A manifest. `digest` covers what the data is; commit and time say only how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    config: DatasetConfig
    scene_index_digest: str
    shards: tuple[ShardInfo, ...]
    refused: tuple[Refused, ...]
    commit: str
    created: str

    @property
    def name(self) -> str:
        """Name of the version: recipe and short digest."""
        return f"{self.config.name}-{self.digest[:12]}"

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


def shard_folder(root: Path) -> Path:
    """Where the shards of a dataset root lie."""
    return root / "shards"


def split_reuse(specs: Sequence[ShardSpec], root: Path) -> tuple[list[ShardInfo], list[ShardSpec]]:
    """Say which shards exist whole (reuse) and which are to be made (build)."""
    found = [(spec, find_shard(shard_folder(root), spec.name)) for spec in specs]
    return [info for _, info in found if info], [spec for spec, info in found if not info]


def publish_version(
    root: Path,
    config: DatasetConfig,
    scenes: Sequence[Scene],
    shards: Sequence[ShardInfo],
    *,
    refused: Sequence[Refused],
    commit: str,
    created: str,
) -> DatasetVersion:
    """Write the manifest, last and whole. An equal version that exists already is returned as it is.

    Raises ValueError when a shard is no longer there: a manifest speaks of whole shards only.
    """
    gone = [shard.name for shard in shards if find_shard(shard_folder(root), shard.name) != shard]
    if gone:
        raise ValueError(f"{len(gone)} shards vanished, {gone[0]} first; run jobs.generate again")
    ordered = tuple(sorted(shards, key=lambda shard: shard.name))
    index_digest = digest_of(sorted(scene.digest for scene in scenes))
    # As in a shard's address, ranges that nothing uses do not make another version.
    recipe = config.model_dump(mode="json", exclude={"shard"}) | {"shard": config.shard.address()}
    digest = digest_of([recipe, index_digest, [shard.sha256 for shard in ordered]])
    version = DatasetVersion(
        digest=digest,
        config=config,
        scene_index_digest=index_digest,
        shards=ordered,
        refused=tuple(refused),
        commit=commit,
        created=created,
    )
    path = manifest_path(root, version.name)
    if path.is_file():
        version = read_version(path)
    else:
        write_whole(path, version.model_dump_json(indent=1).encode())
    newest = _newest_path(root, config.name)
    if not newest.is_file() or newest.read_text() != version.name:
        write_whole(newest, version.name.encode())
    return version


def manifest_path(root: Path, name: str) -> Path:
    """Where the manifest of version `name` lies."""
    return root / "versions" / f"{name}.json"


def _newest_path(root: Path, recipe: str) -> Path:
    # A pointer, not the time in the manifests: going back to an old recipe publishes an old version
    # again, and that is then what the recipe's name means.
    return root / "versions" / f"{recipe}.newest"


def find_version(root: Path, name: str) -> DatasetVersion:
    """Find a version by its full name, or the one that a recipe published last by the recipe's name.

    Raises ValueError that lists what there is.
    """
    exact = manifest_path(root, name)
    if exact.is_file():
        return read_version(exact)
    newest = _newest_path(root, name)
    if newest.is_file():
        return read_version(manifest_path(root, newest.read_text()))
    known = sorted(path.stem for path in (root / "versions").glob("*.json"))
    shown = ", ".join(known) or "none yet; run jobs.generate first"
    raise ValueError(f"no dataset version {name!r} in {root}; there is: {shown}")


class Garbage(BaseModel):
    """Files that no version needs: shards without a manifest, temporary files of dead writers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[Path, ...]
    temporary: tuple[Path, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes that deleting them frees."""
        return sum(path.stat().st_size for path in (*self.shards, *self.temporary))


def find_garbage(root: Path, *, now_s: float, min_age_s: float) -> Garbage:
    """Find what no manifest refers to and nobody touched for `min_age_s`.

    The age is what keeps a running generation safe: its shards have no manifest yet.
    Raises ValueError when a manifest cannot be read, whose shards would look unreferenced.
    """

    def old(path: Path) -> bool:
        return now_s - path.stat().st_mtime >= min_age_s

    manifests = sorted((root / "versions").glob("*.json"))
    referenced = {shard.name for path in manifests for shard in read_version(path).shards}
    stored = sorted(shard_folder(root).glob("[!.]*"))
    # Markers first: a crash in the middle of deleting must not leave a marker without its shard.
    unreferenced = sorted(
        (path for path in stored if path.stem not in referenced and old(path)),
        key=lambda path: (path.suffix != ".json", path.name),
    )
    temporary = [path for path in sorted(root.glob("*/.tmp-*")) if old(path)]
    return Garbage(shards=tuple(unreferenced), temporary=tuple(temporary))


def delete_garbage(garbage: Garbage) -> None:
    """Delete the files; one that is gone already is no error."""
    for path in (*garbage.shards, *garbage.temporary):
        path.unlink(missing_ok=True)


def read_version(path: Path) -> DatasetVersion:
    """Read a manifest. Raises ValueError when it is not one."""
    try:
        return DatasetVersion.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{path}: not a dataset manifest ({error})") from error
