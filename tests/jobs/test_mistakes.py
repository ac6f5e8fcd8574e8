"""What a person gets wrong is one line on stderr that names it, exit status 2, no traceback."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.evaluate import __main__ as evaluate
from jobs.fuse import __main__ as fuse
from jobs.generate import __main__ as generate
from jobs.promote import __main__ as promote
from jobs.scan import __main__ as scan
from jobs.train import __main__ as train

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that has to fail; return its one line."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def fail(command: Callable[[], None], *arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["job", *words, "--work", str(tmp_path / "work")])
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return fail


def picture(path: Path, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros(shape, np.uint8))


def test_missing_folder(run: Run, tmp_path: Path) -> None:
    assert "absent: no such folder" in run(scan.COMMAND.run, tmp_path / "absent")


def test_an_image_that_is_not_one(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "s" / "ir" / "a.png", (16, 16))
    (tmp_path / "s" / "vi").mkdir()
    (tmp_path / "s" / "vi" / "a.png").write_text("no picture")
    assert "a.png: not an image" in run(scan.COMMAND.run, tmp_path / "s")


def test_a_vi_without_its_ir(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "s" / "vi" / "a.png", (16, 16, 3))
    (tmp_path / "s" / "ir").mkdir()
    assert "has pictures in vi/ but none in a partner folder" in run(
        scan.COMMAND.run, tmp_path / "s"
    )


def test_unequal_sizes(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "s" / "vi" / "a.png", (16, 16, 3))
    picture(tmp_path / "s" / "ir" / "a.png", (16, 18))
    line = run(scan.COMMAND.run, tmp_path / "s")
    assert "VI is 16x16 but IR is 18x16" in line
    pair = ["--vi", tmp_path / "s" / "vi" / "a.png", "--ir", tmp_path / "s" / "ir" / "a.png"]
    assert "no config.json" in run(fuse.COMMAND.run, tmp_path, *pair, "--out", tmp_path / "f.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smal", "--scenes", "x"], "no recipe 'smal', did you mean 'small'?"),
        (["small", "--scenes", "x"], "no such scene index"),
        (["small", "--scenes", "x", "--set", "shard.sed=1"], "did you mean 'shard.seed'?"),
        (["small", "--scenes", "x", "--set", 'shard.vi=["fog"]'], "no degradation 'fog'"),
    ],
)
def test_generate(run: Run, arguments: list[str], message: str) -> None:
    assert message in run(generate.COMMAND.run, *arguments)


def test_misspelt_names_of_what_is_there(run: Run, tmp_path: Path) -> None:
    scenes, versions = (tmp_path / "work" / name for name in ("scenes", "datasets/versions"))
    scenes.mkdir(parents=True)
    versions.mkdir(parents=True)
    (scenes / "rendered.parquet").touch()
    (versions / "rendered-small-0123456789ab.json").touch()
    assert "did you mean 'rendered'?" in run(generate.COMMAND.run, "small", "--scenes", "rendred")
    assert "did you mean 'rendered-small'?" in run(generate.COMMAND.run, "verify", "rendered-smal")


def test_train_without_data(run: Run) -> None:
    line = run(train.COMMAND.run, "dspfusion_stage1_small", "--set", "dataset=nowhere")
    assert "no dataset version 'nowhere'" in line
    assert "jobs.generate" in line


def test_a_misspelt_setting_of_a_training(run: Run) -> None:
    line = run(train.COMMAND.run, "dspfusion_stage1_small", "--set", "optim.learning_rate=1")
    assert "no such key 'optim.learning_rate'" in line


def test_models_that_do_not_exist(run: Run) -> None:
    assert "models:/absent/1" in run(evaluate.COMMAND.run, "models:/absent/1", "--scenes", "x")
    assert "models:/absent@challenger" in run(promote.COMMAND.run, "absent")
    assert "give models:/NAME" in run(evaluate.COMMAND.run, "models:/absent", "--scenes", "x")
