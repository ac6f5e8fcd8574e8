"""The index of a version's groups: what the shards say, without opening them."""

from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasets.group_index import count_by_shard, index_of, read_group_rows, rows_of
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder

Published = tuple[DatasetVersion, LocalFolder]


def test_it_says_what_the_shards_hold(version_root: Published) -> None:
    version, root = version_root
    rows = read_group_rows(root, version.name).to_pylist()
    expected = []
    for info in version.shards:
        with closing(open_shard(root, info)) as reader:
            parts = rows_of(reader.metas.values()).to_pylist()
        expected += [{"shard": info.name} | row for row in parts]
    assert rows == expected
    names = [shard.name for shard in version.shards]
    counts = count_by_shard(read_group_rows(root, version.name, ["shard", "vi"]), "vi", names)
    assert counts.tolist() == [shard.num_groups for shard in version.shards]


def whole_of_another(root: LocalFolder, version: DatasetVersion) -> bytes:
    """The index without the first row."""
    sink = pa.BufferOutputStream()
    pq.write_table(read_group_rows(root, version.name).slice(1), sink)
    return sink.getvalue().to_pybytes()


def test_a_version_whose_index_is_lost_or_of_other_shards_is_named(
    version_root: Published, scenes: list[Scene]
) -> None:
    version, root = version_root
    path = root.path / index_of(version.name)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r"no index of groups .*run jobs\.generate again"):
        read_group_rows(root, version.name, ["shard"])
    assert any("no index of groups" in problem for problem in verify_version(version, root))
    made = Made("0" * 40, "2026-01-01")
    publish_version(root, version.config, scenes, version.shards, made)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"no index of groups"):
        read_group_rows(root, version.name, ["shard"])
    path.write_bytes(whole)
    assert verify_version(version, root) == []
    rows = read_group_rows(root, version.name, ["shard", "vi"])
    with pytest.raises(ValueError, match="not in the manifest"):
        count_by_shard(rows, "vi", [version.shards[0].name])
    root.replace(index_of(version.name), whole_of_another(root, version))
    [problem] = verify_version(version, root)
    assert (
        problem
        == f"{version.shards[0].name}: the version's index of groups says something else of it"
    )
    # The manifest comes last: without a shard's rows there is none.
    lost = root.path / "shards" / f"{version.shards[0].name}.parquet"
    lost.unlink()
    (root.path / "versions" / f"{version.name}.json").unlink()
    path.unlink()
    with pytest.raises(ValueError, match=rf"{lost.name}: missing or damaged"):
        publish_version(root, version.config, scenes, version.shards, made)
