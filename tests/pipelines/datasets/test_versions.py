from pathlib import Path

import pytest

from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import (
    DatasetVersion,
    Made,
    find_version,
    manifest_of,
    publish_version,
    read_version,
    split_reuse,
)
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]


def test_manifest_round_trip_and_counts(version_root: Published, scenes: list[Scene]) -> None:
    version, root = version_root
    assert read_version(root, version.name) == version
    assert version.num_scenes == len(scenes)
    assert version.num_groups == 4 * len(scenes)


def test_the_same_content_is_the_same_version(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    stamp = (root.path / manifest_of(version.name)).stat().st_mtime_ns
    assert make_version(root, config, scenes) == version
    assert (root.path / manifest_of(version.name)).stat().st_mtime_ns == stamp


def test_only_what_changed_is_built(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    reused, build = split_reuse(plan_shards(config, scenes), root)
    assert len(reused) == len(version.shards) > 1
    assert not build
    fewer = plan_shards(config, [scene for scene in scenes if scene.id != scenes[0].id])
    reused, build = split_reuse(fewer, root)
    assert len(build) == 1
    ((root.path / "shards") / f"{reused[0].name}.json").unlink()
    assert len(split_reuse(fewer, root)[1]) == 2


def test_old_versions_stay(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    other = make_version(root, config, scenes[:12])
    assert other.name != version.name
    assert find_version(root, version.name) == version
    assert find_version(root, other.name) == other


def test_a_recipe_name_finds_what_was_published_last(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    assert find_version(root, "rendered") == version
    other = make_version(root, config, scenes[:12])
    assert find_version(root, "rendered") == other
    # Going back publishes the old version again, and the name means it again.
    make_version(root, config, scenes)
    assert find_version(root, "rendered") == version
    with pytest.raises(ValueError, match=version.name):
        find_version(root, "rendred")
    (root.path / "versions" / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match="not a dataset manifest"):
        find_version(root, "broken")


def test_a_shard_that_vanished_is_not_published(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    ((root.path / "shards") / f"{version.shards[0].name}.tar").unlink()
    with pytest.raises(ValueError, match="1 shards vanished"):
        publish_version(root, config, scenes, version.shards, Made("", "2026-01-02"))


def test_two_that_publish_one_version_at_once_agree(
    tmp_path: Path, config: DatasetConfig, scenes: list[Scene]
) -> None:
    """The other one's manifest comes between the question whether there is one and the answer."""
    shards = [write_shard(spec, LocalFolder(tmp_path)).info for spec in plan_shards(config, scenes)]

    class Overtaken(LocalFolder):
        def write_once(self, name: str, data: bytes) -> None:
            publish(LocalFolder(self.path), created="first")
            super().write_once(name, data)

    def publish(root: LocalFolder, created: str) -> DatasetVersion:
        return publish_version(root, config, scenes, shards, Made("0" * 40, created))

    version = publish(Overtaken(tmp_path), created="second")
    assert version.created == "first"
    assert find_version(LocalFolder(tmp_path), config.name) == version
