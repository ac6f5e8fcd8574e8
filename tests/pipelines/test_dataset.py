from pathlib import Path

import pytest

from pipelines.dataset import (
    DatasetVersion,
    find_version,
    manifest_path,
    read_version,
    shard_folder,
    split_reuse,
)
from pipelines.plan import DatasetConfig, plan_shards
from pipelines.scenes import Scene
from tests.conftest import make_version

Published = tuple[DatasetVersion, Path]


def test_manifest_round_trip_and_counts(version_root: Published, scenes: list[Scene]) -> None:
    version, root = version_root
    assert read_version(manifest_path(root, version.name)) == version
    assert version.num_scenes == len(scenes)
    assert version.num_groups == 4 * len(scenes)


def test_the_same_content_is_the_same_version(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    stamp = manifest_path(root, version.name).stat().st_mtime_ns
    assert make_version(root, config, scenes) == version
    assert manifest_path(root, version.name).stat().st_mtime_ns == stamp


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
    (shard_folder(root) / f"{reused[0].name}.json").unlink()
    assert len(split_reuse(fewer, root)[1]) == 2


def test_old_versions_stay(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    other = make_version(root, config, scenes[:12])
    assert other.name != version.name
    assert find_version(root, version.name) == version
    assert find_version(root, other.name) == other


def test_a_recipe_name_finds_the_newest(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    assert find_version(root, "rendered") == version
    with pytest.raises(ValueError, match=version.name):
        find_version(root, "rendred")
    (root / "versions" / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match="not a dataset manifest"):
        find_version(root, "broken")
