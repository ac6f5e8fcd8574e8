from pathlib import Path

import pytest

from pipelines.files import whole_file, whole_folder, write_whole


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
