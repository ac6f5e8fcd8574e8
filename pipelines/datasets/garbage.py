"""What no dataset version needs: found among the shards, and deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.datasets.shards.markers import SHARDS
from pipelines.datasets.versions import VERSIONS, list_versions, manifest_of, version_names
from pipelines.store.files import TEMPORARY
from pipelines.store.folders import Entry, Folder


@dataclass(frozen=True)
class Garbage:
    """What no version needs: shards without a manifest, and what dead writers left unfinished."""

    shards: tuple[Entry, ...]
    unfinished: tuple[Entry, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes that deleting it frees."""
        return sum(entry.num_bytes for entry in (*self.shards, *self.unfinished))


def find_garbage(
    root: Folder, *, now_s: float, min_age_s: float, needed: Collection[str] = ()
) -> Garbage:
    """Find what no manifest refers to, no generation needs, and nobody touched for `min_age_s`.

    `needed` are the shards of the generations under way, by name; the age is for those that were
    interrupted and will resume. Raises ValueError when a manifest cannot be read, whose shards would
    look unreferenced.
    """

    def old(entry: Entry) -> bool:
        return now_s - entry.modified_s >= min_age_s

    kept = {shard.name for version in list_versions(root) for shard in version.shards} | {*needed}
    stored = (entry for entry in root.entries(SHARDS) if old(entry))
    # Markers first: a crash in the middle of deleting must not leave a marker without its shard.
    unreferenced = sorted(
        (entry for entry in stored if PurePosixPath(entry.name).stem not in kept),
        key=lambda entry: (not entry.name.endswith(".json"), entry.name),
    )
    left = [entry for prefix in (SHARDS, VERSIONS) for entry in root.unfinished(prefix)]
    left = [entry for entry in left if old(entry) and _shard_of(entry) not in needed]
    # An index is written before its manifest.
    manifests = {manifest_of(name) for name in version_names(root)}
    indices = (entry for entry in root.entries(VERSIONS) if entry.name.endswith(".parquet"))
    left += [
        entry
        for entry in indices
        if old(entry) and f"{entry.name.removesuffix('.parquet')}.json" not in manifests
    ]
    return Garbage(shards=tuple(unreferenced), unfinished=tuple(left))


def _shard_of(unfinished: Entry) -> str:
    """The shard that an upload, or a temporary file, was to become."""
    return PurePosixPath(unfinished.name).name.removeprefix(TEMPORARY).partition(".")[0]


def delete_garbage(
    root: Folder, garbage: Garbage, *, check: Callable[[], None] = lambda: None
) -> None:
    """Delete it, each after a `check` that may raise; what is gone already is no error."""
    for entry in (*garbage.shards, *garbage.unfinished):
        check()
        root.delete(entry)
