"""What is different between two dataset versions, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder
from pipelines.store.names import first_few

_SHOWN = 5
_COUNTS = ("num_scenes", "num_groups", "num_bytes")


def compare_versions(
    first: DatasetVersion, second: DatasetVersion, root: Folder
) -> list[tuple[str, str]]:
    """What changed from `first` to `second`: (what, how), one for each scene, kernel, range and count.

    Shards that both have are not read. Raises ValueError when one that is read is not whole.
    """
    return [
        *_scene_changes(first, second, root),
        *_changes("kernel", first.code.kernels, second.code.kernels),
        *_changes("code", _code(first), _code(second)),
        *_changes("setting", _settings(first), _settings(second)),
        *_changes("library", _libraries(first), _libraries(second)),
        *_changes("count", _counts(first), _counts(second)),
    ]


def _scene_changes(
    first: DatasetVersion, second: DatasetVersion, root: Folder
) -> Iterator[tuple[str, str]]:
    shared = {shard.name for shard in first.shards} & {shard.name for shard in second.shards}
    old, new = (_scenes(version, root, shared) for version in (first, second))
    changed = [scene for scene in old.keys() & new.keys() if old[scene] != new[scene]]
    for what, scenes in (
        ("only in the first", old.keys() - new.keys()),
        ("only in the second", new.keys() - old.keys()),
        ("with other pictures", changed),
    ):
        if scenes:
            yield f"scenes {what}", _shown(scenes)


def _shown(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f"{len(ordered)}: {first_few(ordered, most=_SHOWN)}"


def _scenes(version: DatasetVersion, root: Folder, without: set[str]) -> dict[str, Any]:
    """What each scene is made of, by id; without those of some shards."""
    scenes = {}
    for info in version.shards:
        if info.name not in without:
            with closing(open_shard(root, info)) as reader:
                for scene, meta in reader.metas.items():
                    scenes[scene] = (meta.vi_sha256, meta.ir_sha256, meta.natives)
    return scenes


def _changes(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{what} {name}", f"{old.get(name, 'none')} → {new.get(name, 'none')}"


def _code(version: DatasetVersion) -> dict[str, Any]:
    return version.code.model_dump(exclude={"kernels"})


def _settings(version: DatasetVersion) -> dict[str, Any]:
    """Settings by dotted name; ranges of the degradations in use only."""
    shard = version.config.shard
    used = {"vi_ranges": set(shard.vi), "ir_ranges": set(shard.ir)}
    settings = _flat(version.config.model_dump(mode="json"))
    return {
        name: value
        for name, value in settings.items()
        if not any(
            name.startswith(f"shard.{ranges}.") and name.split(".")[2] not in names
            for ranges, names in used.items()
        )
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _libraries(version: DatasetVersion) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for library in version.libraries:
        name, _, number = library.partition("==")
        found.setdefault(name, []).append(number)
    return {name: " and ".join(numbers) for name, numbers in found.items()}


def _counts(version: DatasetVersion) -> dict[str, int]:
    counts = {name.removeprefix("num_"): getattr(version, name) for name in _COUNTS}
    return counts | {"shards": len(version.shards)}
