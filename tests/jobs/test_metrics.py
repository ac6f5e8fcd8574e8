import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from infra.learned_scores import NAMES, WEIGHTS, load_scores
from jobs.metrics import __main__ as command
from jobs.metrics.run import means_of, measure_flicker, measure_folders, write_table
from models.metrics import DEFAULT, METRICS
from pipelines.evaluation.method_folders import find_triples
from pipelines.results.rows import FLICKER, ScoreName


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for folder in ("vi", "ir", "fused"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            image = rng.integers(0, 256, (48, 48), dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / folder / f"{name}.png"), image)
    return [tmp_path / folder for folder in ("vi", "ir", "fused")]


def test_table_has_a_line_per_picture_and_metric(folders: list[Path], tmp_path: Path) -> None:
    table, _ = measure_folders(find_triples(*folders), DEFAULT)
    write_table(table, tmp_path / "out" / "table.csv")
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [(line["image"], line["metric"]) for line in lines] == [
        (image, metric) for image in ("a.png", "b.png") for metric in DEFAULT
    ]
    values = {(line["image"], line["metric"]): float(line["value"]) for line in lines}
    assert values["a.png", "EN"] == table["a.png"]["EN"]
    assert means_of(table)["MS_SSIM"] == "none  over 0 of 2: needs 176 px a side"


def test_what_cannot_be_measured_does_not_end_the_rest(
    folders: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cv2.imwrite(str(folders[2] / "a.png"), np.zeros((48, 40), np.uint8))
    (folders[1] / "Thumbs.db").write_bytes(b"left by a system")
    words = [str(tmp_path / "t.csv"), *map(str, folders)]
    options = [
        word
        for pair in zip(("--out", "--vi", "--ir", "--fused"), words, strict=True)
        for word in pair
    ]
    for more, status in (([], 1), (["--partial"], 0)):
        monkeypatch.setattr(sys, "argv", ["metrics", *options, *more])
        with pytest.raises(SystemExit) as ended:
            command.COMMAND.run()
        assert ended.value.code == status
        assert "fused/a.png is 40x48" in capsys.readouterr().out
        lines = list(csv.DictReader((tmp_path / "t.csv").open()))
        assert {line["image"] for line in lines} == {"b.png"}


def test_a_mistake_is_one_line(folders: list[Path]) -> None:
    (folders[0] / "a.png").unlink()
    command = [sys.executable, "-m", "jobs.metrics", "--out", "table.csv"]
    for name, folder in zip(("--vi", "--ir", "--fused"), folders, strict=True):
        command += [name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 1 pictures lack a partner: ")
    assert "Traceback" not in done.stderr


def test_variants_add_names_and_keep_the_defaults(folders: list[Path]) -> None:
    table, _ = measure_folders(find_triples(*folders), METRICS)
    assert list(table["a.png"])[: len(DEFAULT)] == list(DEFAULT)
    assert {"Qcb", "Q_P", "MI_ml_bits"} <= set(table["b.png"])


def test_frames_of_a_sequence_have_flicker(folders: list[Path]) -> None:
    # Nothing moves in the source, so all that changes is flicker.
    (folders[0] / "b.png").write_bytes((folders[0] / "a.png").read_bytes())
    before, after = (
        cv2.imread(str(folders[2] / name), 0).astype(float) for name in ("a.png", "b.png")
    )
    found = find_triples(*folders)
    table = measure_flicker(found.triples, measure_folders(found, ("EN",))[0])
    first, second = (values[FLICKER] for values in table.values())
    assert math.isnan(first)
    assert second == pytest.approx(np.square(after - before).mean(), rel=0.01)
    assert means_of(table)[FLICKER].endswith("over 1 of 2: the first has none")
    with pytest.raises(ValueError, match="two frames at least"):
        measure_flicker(found.triples[:1], table)


def test_learned_scores_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(NAMES) == get_args(ScoreName) == command.SCORES
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ValueError, match=r"MUSIQ, PI: pyiqa is needed .*'\.\[scores\]'"):
        load_scores(["MUSIQ", "PI"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "index for CPUs"),
        (
            "def create_metric(name, device):\n    raise OSError('Name or service not known')",
            r"MUSIQ .*service not known.* pyiqa/musiq_koniq_ckpt-e95806b9.pth is missing",
        ),
    ],
)
def test_learned_scores_name_the_remedy(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the real package fails: with another torch's torchvision, and without a network.
    (tmp_path / "pyiqa.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load_scores([*NAMES][1:])
    sys.modules.pop("pyiqa", None)


def test_damaged_weights_are_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyiqa.py").write_text("def create_metric(name, device):\n    raise EOFError()")
    for file in WEIGHTS["MUSIQ"]:
        (tmp_path / "hub" / file).parent.mkdir(parents=True)
        (tmp_path / "hub" / file).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"MUSIQ cannot be read .*delete .*musiq_koniq"):
        load_scores([*NAMES][1:])
    sys.modules.pop("pyiqa", None)
