import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.store.files import alone_in, whole_file, whole_folder, write_whole

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
