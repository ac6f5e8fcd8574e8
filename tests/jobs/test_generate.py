"""The verbs of jobs.generate, and the recipe that comes before any verb."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import generate
from pipelines.dataset import DatasetVersion
from pipelines.folders import LocalFolder

Published = tuple[DatasetVersion, LocalFolder]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def work(version_root: Published) -> Path:
    """A work folder whose `datasets` are the published version."""
    _, root = version_root
    folder = root.path / "work"
    folder.mkdir()
    (folder / "datasets").symlink_to(root.path)
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["job", *words, "--work", str(work)])
        with pytest.raises(SystemExit) as ended:
            generate.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out + captured.err

    return command


def test_verify_says_whole_or_what_is_wrong(run: Run, version_root: Published) -> None:
    version, root = version_root
    status, text = run("verify", "rendered")
    assert status == 0
    assert version.name in text
    ((root.path / "shards") / f"{version.shards[0].name}.tar").write_bytes(b"")
    status, text = run("verify", version.name)
    assert status == 2
    assert version.shards[0].name in text
    assert "is not whole: 1 problems" in text
    assert run("verify", "rendred")[0] == 2


def test_inspect_writes_a_page(run: Run, tmp_path: Path) -> None:
    status, _ = run("inspect", "rendered", "--out", str(tmp_path / "page.html"))
    assert status == 0
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()


def test_gc_lists_first_and_deletes_when_told(run: Run, version_root: Published) -> None:
    _, root = version_root
    orphan = (root.path / "shards") / "0123.tar"
    orphan.write_bytes(b"x" * 2**20)
    assert "0123.tar" not in run("gc")[1]
    day_old = time.time() - 25 * 3600
    os.utime(orphan, (day_old, day_old))
    status, text = run("gc")
    assert status == 0
    assert "shards/0123.tar" in text
    assert "would delete  1 files of unreferenced shards, 0 unfinished, 1.0 MiB" in text
    assert orphan.exists()
    assert "deleted" in run("gc", "--delete")[1]
    assert not orphan.exists()
    assert run("verify", "rendered")[0] == 0


def test_a_recipe_is_still_a_recipe(run: Run) -> None:
    status, text = run("small", "--scenes", "absent", "--dry-run")
    assert status == 2
    assert "no such scene index" in text
