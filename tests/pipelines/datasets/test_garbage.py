import pytest

from pipelines.datasets.garbage import delete_garbage, find_garbage
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import (
    DatasetVersion,
    find_version,
    manifest_of,
    newest_version,
)
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]


def test_garbage_is_what_no_version_needs(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    folder = root.path / "shards"
    orphan = write_shard(plan_shards(config, scenes[:5])[0], root).info
    assert orphan.name not in {shard.name for shard in version.shards}
    for stale in (
        folder / ".tmp-x.tar-123",
        root.path / "versions" / ".tmp-v.json-9",
        root.path / "versions" / "gone.parquet",
    ):
        stale.write_bytes(b"half")
    now_s = (folder / f"{orphan.name}.tar").stat().st_mtime
    # A running generation has shards without a manifest: young files stay.
    assert find_garbage(root, now_s=now_s, min_age_s=3600).num_bytes == 0
    # Nor is anything touched that a generation needs, however old.
    alive = find_garbage(root, now_s=now_s + 1e6, min_age_s=0, needed={orphan.name, "x"})
    assert [entry.name for entry in (*alive.shards, *alive.unfinished)] == [
        "versions/.tmp-v.json-9",
        "versions/gone.parquet",
    ]
    garbage = find_garbage(root, now_s=now_s + 3601, min_age_s=3600)
    assert [entry.name for entry in garbage.shards] == [
        f"shards/{orphan.name}.json",
        f"shards/{orphan.name}.parquet",
        f"shards/{orphan.name}.tar",
    ]
    assert [entry.name for entry in garbage.unfinished] == [
        "shards/.tmp-x.tar-123",
        "versions/.tmp-v.json-9",
        "versions/gone.parquet",
    ]
    assert garbage.num_bytes > orphan.num_bytes
    delete_garbage(root, garbage)
    delete_garbage(root, garbage)
    assert find_garbage(root, now_s=now_s + 3601, min_age_s=3600).num_bytes == 0
    assert verify_version(version, root) == []


def test_a_manifest_deleted_by_hand_stops_nothing(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    (root.path / manifest_of(version.name)).unlink()
    assert newest_version(root, config.name) is None
    with pytest.raises(ValueError, match="no dataset version"):
        find_version(root, config.name)
    assert make_version(root, config, scenes) == version


def test_an_unreadable_manifest_stops_the_collection(version_root: Published) -> None:
    _, root = version_root
    (root.path / "versions" / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match="not a dataset manifest"):
        find_garbage(root, now_s=0, min_age_s=0)
