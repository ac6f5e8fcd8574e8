"""The scene index as a file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.index import read_index, write_index
from pipelines.sources.scan import ScanResult, scan
from pipelines.sources.scenes import Scene, SceneTable, load_picture


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


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", None, "2 rows have no id"),
        ("id", "A scene", "an id is not of small letters"),
        ("id", "same", "two rows have the same id"),
        ("width", 0, "a width or a height is not positive"),
        ("width", 2**40, "not a scene index"),
        ("height", "high", "not a scene index"),
        ("vi_sha256", None, "vi_uri and vi_sha256 do not go together"),
    ],
)
def test_an_index_that_was_edited(
    column: str, value: object, message: str, scenes: list[Scene], tmp_path: Path
) -> None:
    path = tmp_path / "index.parquet"
    write_index(ScanResult(scenes=SceneTable.of(scenes[:2]), refused=()), path)
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array([value] * 2)), path)
    with pytest.raises(ValueError, match=rf"index\.parquet: .*{message}.*run jobs\.scan again"):
        read_index(path)
    pq.write_table(table.drop_columns([column]), path)
    with pytest.raises(ValueError, match=r"run jobs\.scan again"):
        read_index(path)


def test_an_index_of_more_rows_than_fit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    pq.write_table(pa.table({"id": pa.nulls(20_000_000)}), path)
    with pytest.raises(ValueError, match="20000000 scenes, above the 5000000"):
        read_index(path)


def test_a_size_that_is_not_the_file_s(scenes: list[Scene]) -> None:
    edited = scenes[0].model_copy(update={"width": 8})
    with pytest.raises(ValueError, match=r"is 80x64, and its index says 8x64; run jobs\.scan"):
        load_picture(edited, "vi")


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jobs\.scan"):
        read_index(tmp_path / "absent.parquet")
    (tmp_path / "index.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="not a scene index"):
        read_index(tmp_path / "index.parquet")
