"""The verbs of jobs.generate, and the recipe that comes before any verb."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.generate import __main__ as generate
from jobs.generate.run import after_newest
from jobs.scan import __main__ as scan
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

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
            generate.COMMAND.run()
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


def _index(
    work: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "rendered"
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["job", str(scene_folder), "--name", name, "--work", str(work)]
    )
    with pytest.raises(SystemExit) as ended:
        scan.COMMAND.run()
    assert ended.value.code == 0


def test_a_dry_run_says_where_its_figures_are_from(
    run: Run, work: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _index(work, scene_folder, monkeypatch)
    words = ["paper", "--scenes", "rendered", "--dry-run"]
    status, text = run(*words, "--cluster", "2x3", "--price", "0.5")
    assert status == 0, text
    assert "scenes made here just now" in text
    assert "2 nodes of 3 cores" in text
    assert "core-hours" in text
    assert "at 0.5 each" in text
    assert "nodes of" not in run(*words)[1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_settings")
def test_a_run_leaves_figures_for_the_next_dry_run(
    run: Run, work: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        _index(work, scene_folder, monkeypatch, name)
    ahead = ["small", "--scenes", "second", "--dry-run"]
    assert run("small", "--scenes", "first", "--smoke")[0] == 0
    assert "made here just now" in run(*ahead)[1]  # a try-out leaves none
    assert run("small", "--scenes", "first")[0] == 0
    text = run(*ahead)[1]
    assert "of the run of 20" in text
    assert "UTC: 16 scenes on " in text
    assert "made here just now" in run(*ahead, "--fresh-figures")[1]


def test_a_rebuild_counts_on_from_the_last_version(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    _, root = version_root
    again, earlier = after_newest(config, root, ["blur"])
    assert again.shard.rebuilt == {"blur": 1}
    assert earlier is not None
    # It was interrupted: the same command means the same shards.
    assert after_newest(config, root, ["blur"])[0] == again
    make_version(root, again, scenes)
    assert after_newest(config, root, None)[0] == again
    assert after_newest(config, root, ["blur", "random_noise"])[0].shard.rebuilt == {
        "blur": 2, "random_noise": 1,
    }  # fmt: skip
    everything = after_newest(config, root, [])[0].shard.rebuilt
    assert everything == {name: 1 for name in ("clean", *config.shard.vi, *config.shard.ir)} | {
        "blur": 2
    }
    with pytest.raises(ValueError, match=r"--rebuild blurr: .* did you mean 'blur'"):
        after_newest(config, root, ["blurr"])
    assert after_newest(config.model_copy(update={"name": "new"}), root, None)[1] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run", "--cluster", "many"], "write NODESxCORES"),
        (["--dry-run", "--price", "0.1"], "it needs --cluster"),
        (["--cluster", "2x2"], "with --dry-run only"),
        (["--fresh-figures"], "with --dry-run only"),
    ],
)
def test_a_forecast_that_cannot_be_made_says_why(run: Run, words: list[str], message: str) -> None:
    status, text = run("small", "--scenes", "rendered", *words)
    assert status == 2
    assert message in text
