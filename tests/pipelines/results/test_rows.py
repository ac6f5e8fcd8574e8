from pathlib import Path

import pytest

from models.metrics import METRIC_VERSION
from pipelines.results.rows import Row, read_rows, write_rows


def row(method: str) -> Row:
    head = {"scene": "a", "dataset": "d", "scenario": "clean", "method": method}
    size = {"reference": "hq", "width": 8, "height": 6, "seconds": 0.1}
    return (
        head | size | {"metric_version": METRIC_VERSION, "protocol": "p", "VIF": 0.5, "SSIM": 0.25}
    )


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [row("take_vi"), row("source_average")]
    path = tmp_path / "out" / "rows.parquet"
    write_rows(rows, path)
    assert read_rows(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["rows.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    rows = [row("take_vi"), row("source_average")]
    path = tmp_path / "rows.parquet"
    write_rows(rows, path)
    with pytest.raises(Exception, match="bright"):
        write_rows([item | {"VIF": "bright"} for item in rows], path)
    assert read_rows(path) == rows
    assert not list(tmp_path.glob(".tmp-*"))


def test_rows_that_would_lose_columns_are_refused(tmp_path: Path) -> None:
    rows = [row("take_vi"), row("source_average")]
    without = {name: value for name, value in rows[1].items() if name != "VIF"}
    for odd in (without, rows[1] | {"sharpness": 1.0}):
        with pytest.raises(ValueError, match=r"VIF|sharpness"):
            write_rows([rows[0], odd], tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="no rows to write"):
        write_rows([], tmp_path / "rows.parquet")


def test_reading_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_rows(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_rows(tmp_path / "text.parquet")
