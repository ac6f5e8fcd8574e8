"""The scene index as a file."""

from pathlib import Path

import pytest

from pipelines.sources.index import read_index, write_index
from pipelines.sources.scan import ScanResult, scan
from pipelines.sources.scenes import Scene, SceneTable


def test_index_round_trip(scene_folder: Path, tmp_path: Path) -> None:
    result = scan(scene_folder, dataset="rendered")
    write_index(result, tmp_path / "index.parquet")
    read = read_index(tmp_path / "index.parquet")
    assert set(read.scenes) == set(result.scenes)
    assert read.refused == result.refused


def test_scenes_with_one_camera_survive_the_file(scenes: list[Scene], tmp_path: Path) -> None:
    alone = scenes[0].model_copy(update={"ir_uri": None, "ir_sha256": None, "ir_phash": ""})
    table = SceneTable.of([alone, scenes[1]])
    write_index(ScanResult(scenes=table, refused=()), tmp_path / "index.parquet")
    read = read_index(tmp_path / "index.parquet").scenes
    assert list(read) == [alone, scenes[1]]
    assert read.are_pairs().tolist() == [False, True]
    assert read.digests() == [alone.digest, scenes[1].digest]


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jobs\.scan"):
        read_index(tmp_path / "absent.parquet")
    (tmp_path / "index.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="not a scene index"):
        read_index(tmp_path / "index.parquet")
