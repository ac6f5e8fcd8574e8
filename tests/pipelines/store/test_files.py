import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.store.files import (
    alone_in,
    delete_least_used,
    whole_file,
    whole_folder,
    write_new,
    write_whole,
)

ROOT = Path(__file__).resolve().parents[3]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"

    def fail() -> None:
        with whole_file(path) as stream:
            stream.write(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "sub").iterdir()) == []
    write_whole(path, b"whole")
    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"whole"
    assert list((tmp_path / "sub").iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "folder"

    def fill(content: str, *, fail: bool = False) -> None:
        with whole_folder(path) as folder:
            (folder / "a.txt").write_text(content)
            if fail:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fill("half", fail=True)
    assert list((tmp_path / "sub").iterdir()) == []
    fill("first")
    fill("second")
    # Who comes second finds the folder of the first, which is as good.
    assert (path / "a.txt").read_text() == "first"
    assert list((tmp_path / "sub").iterdir()) == [path]


def test_a_folder_is_held_by_one_until_it_ends_or_dies(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(ValueError, match="run: another process works here"),
        alone_in(tmp_path / "run"),
    ):
        pass
    hold = f"""
import os
from pathlib import Path
from pipelines.store.files import alone_in
with alone_in(Path({str(tmp_path / "run")!r})):
    os.abort()
"""
    assert subprocess.run([sys.executable, "-c", hold], cwd=ROOT, check=False).returncode < 0
    with alone_in(tmp_path / "run"):
        pass


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    """However they run: of eight writers at once one wins, and its bytes stay."""
    path = tmp_path / "sub" / "once"

    def write(index: int) -> bool:
        try:
            write_new(path, str(index).encode())
        except FileExistsError:
            return False
        return path.read_bytes() == str(index).encode()

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert path.read_bytes() == str(won.index(True)).encode()
    assert [item.name for item in path.parent.iterdir()] == ["once"]


def test_a_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "middle", "oldest", "kept")):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "data").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    delete_least_used(tmp_path, 200, keep={"kept"})
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "middle", "kept"}
    delete_least_used(tmp_path, 199, keep={"kept"})
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "kept"}
