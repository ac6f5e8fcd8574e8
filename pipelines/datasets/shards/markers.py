"""The marker of a shard, `<name>.json` beside `<name>.tar`: its presence means the shard is whole."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.store.folders import Folder

SHARDS = "shards/"
# Markers are small files: on a remote store their time is the round trip.
_PARALLEL_READS = 16


class ShardInfo(BaseModel):
    """The marker of a shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Both become parts of paths.
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int
    num_scenes: int
    num_groups: int
    num_images: int
    # Packages that made its bytes, "numpy==2.4.6"; two of one name where parts were copied.
    libraries: tuple[str, ...]


def tar_of(name: str) -> str:
    """Where below its root a shard lies."""
    return f"{SHARDS}{name}.tar"


def marker_of(name: str) -> str:
    """Where below its root a shard's marker lies."""
    return f"{SHARDS}{name}.json"


def find_shard(root: Folder, name: str) -> ShardInfo | None:
    """Return the marker of a shard that is whole, None when there is none (or its tar is gone)."""
    size = root.size_of(tar_of(name))
    if size is None or root.size_of(marker_of(name)) is None:
        return None
    info = read_marker(root, name)
    return info if size == info.num_bytes else None


def find_shards(root: Folder, names: Iterable[str]) -> dict[str, ShardInfo]:
    """Markers of those shards that are whole, by name: one listing, then the markers in parallel.

    Without the right to list, a shard is asked for by name.
    """
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        if not root.may_list:
            found = pool.map(lambda name: find_shard(root, name), names)
            return {info.name: info for info in found if info}
        sizes = {entry.name: entry.num_bytes for entry in root.entries(SHARDS)}
        listed = [name for name in names if tar_of(name) in sizes and marker_of(name) in sizes]
        infos = pool.map(lambda name: read_marker(root, name), listed)
        return {info.name: info for info in infos if sizes[tar_of(info.name)] == info.num_bytes}


def read_marker(root: Folder, name: str) -> ShardInfo:
    """Read a marker. Raises ValueError for what is none."""
    try:
        return ShardInfo.model_validate_json(root.read(marker_of(name)))
    except ValidationError as error:
        raise ValueError(f"{root.uri}/{marker_of(name)}: not a marker ({error})") from error
