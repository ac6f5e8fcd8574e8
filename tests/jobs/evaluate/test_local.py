"""An evaluation in this process: other programs' pictures, and what is left of one that was stopped."""

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.evaluate.export import export_pairs
from jobs.evaluate.report import REPORT
from jobs.evaluate.run import evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import ROWS, Asked, Subject
from jobs.placement import Placement
from jobs.recipes.kinds import EvaluateRecipe
from pipelines.results.rows import MODEL, read_rows
from pipelines.sources.index import write_index
from pipelines.sources.scan import scan
from pipelines.synthetic.pairs import write_scenes
from tests.bright_cells import write_detector

RECIPE = EvaluateRecipe(scenarios=("clean", "vi_blur"), num_examples=1)
HERE = Placement(local=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A work folder with the index `small`: two rendered pairs."""
    write_scenes(tmp_path / "small", split_counts={"val": 2}, seed=1, height=48, width=64)
    work = tmp_path / "work"
    write_index(scan(tmp_path / "small", dataset="small"), work / "scenes" / "small.parquet")
    return Settings(work=work, tracking_uri="", artifact_root=None, ray_address=None)


def test_what_was_measured_is_kept_by_scene_and_scenario(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = tmp_path / "small" / "val" / "ir" / "0001.png"
    last.rename(tmp_path / "away.png")
    asked = Asked(str(tiny_bundle), SceneChoice("small"), placement=HERE)
    with pytest.raises(ValueError, match=r"0001\.png: no such file"):
        evaluate(RECIPE, settings, asked)
    (tmp_path / "away.png").rename(last)
    evaluated = evaluate(RECIPE, settings, asked)
    said = capsys.readouterr().out
    assert "2 scenes of small-val, 4 left under scenarios, 3 methods: about" in said
    assert "2 of 4 were measured before" in said
    assert len(read_rows(evaluated.folder / ROWS)) == 2 * 2 * 3
    assert (
        f"python -m jobs.evaluate {tiny_bundle} --scenes small"
        in (evaluated.folder / REPORT).read_text()
    )
    with pytest.raises(ValueError, match=r"no split 'test', it has val \(2 scenes\).*--hold-out"):
        evaluate(RECIPE, settings, replace(asked, scenes=SceneChoice("small", "test")))


@pytest.mark.slow
def test_other_programs_are_measured_in_every_scenario(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export_pairs(RECIPE, settings, out, SceneChoice("small"), local=True) == 4
    (out / "vi_blur" / "drawn" / "small-val-0001.json").unlink()
    capsys.readouterr()
    assert export_pairs(RECIPE, settings, out, SceneChoice("small"), local=True) == 4
    assert "3 of 4 pairs were exported before" in capsys.readouterr().out
    # A method that takes the infrared picture, and a restorer that changes nothing.
    shutil.copytree(out, tmp_path / "same")
    for scenario in ("clean", "vi_blur"):
        shutil.copytree(out / scenario / "ir", tmp_path / "theirs" / scenario)
    shutil.copy(out / "manifest.json", tmp_path / "theirs")
    asked = Asked(
        str(tiny_bundle),
        SceneChoice("small"),
        folders={"theirs": tmp_path / "theirs"},
        restored={"same": tmp_path / "same"},
        placement=HERE,
    )
    evaluated = evaluate(RECIPE, settings, asked)
    rows = {(r["scene"], r["scenario"], r["method"]): r for r in read_rows(evaluated.folder / ROWS)}
    assert len(rows) == 2 * 2 * 6
    assert evaluated.means.keys() == {
        MODEL, "average", "maximum", "theirs", "same+average", "same+maximum"
    }  # fmt: skip
    for (scene, scenario, method), row in rows.items():
        if method == "average":
            same = rows[scene, scenario, "same+average"]
            assert same["VIF"] == pytest.approx(row["VIF"])
    page = (evaluated.folder / REPORT).read_text()
    assert "Fused: theirs" in page
    assert "Fused: same+average" in page


@pytest.mark.slow
def test_a_detector_and_flicker_are_measured_where_they_are_asked_for(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `detector` is not installed")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "0000.txt").write_text("0 0.5 0.5 0.25 0.25")
    detector = write_detector(tmp_path / "bright.onnx")
    extras = {"detector": detector, "labels": labels, "sequence": True, "num_examples": 0}
    asked = Asked(str(tiny_bundle), SceneChoice("small"), placement=HERE)
    evaluated = evaluate(RECIPE.model_copy(update=extras), settings, asked)
    said = capsys.readouterr().out
    assert "flicker: 1 of 2 scenes follow another frame" in said
    assert "AP over 1 boxes in 1 of 2 scenes" in said
    rows = read_rows(evaluated.folder / ROWS)
    assert {row["detector_agreement"] for row in rows if row["scenario"] == "clean"} == {1.0}
    blurred = [row["detector_agreement"] for row in rows if row["scenario"] == "vi_blur"]
    assert min(blurred) < 1
    assert [math.isnan(row["flicker"]) for row in rows] == [
        row["scene"] == "small-val-0000" for row in rows
    ]
    assert {row["detections"] is None for row in rows if row["scene"] == "small-val-0001"} == {True}
    assert 0 <= evaluated.means[MODEL]["detector_AP50"] <= 1
    page = (evaluated.folder / REPORT).read_text()
    assert "<h3>detector_agreement</h3>" in page
    assert '<h3>flicker <span class="quiet">lower is better</span></h3>' in page


def test_a_detector_and_labels_count_by_what_they_hold(
    settings: Settings, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    text = tmp_path / "labels" / "0000.txt"

    def digest(detector: Path, boxes: str) -> str:
        text.write_text(boxes)
        recipe = RECIPE.model_copy(update={"detector": detector, "labels": text.parent})
        asked = Asked("m", SceneChoice("small"))
        scenes = asked.scenes.load(settings, RECIPE.num_scenes)
        return Subject(recipe, asked, tiny_bundle, scenes).tags["config_digest"]

    boxes, others = "0 0.5 0.5 0.25 0.25", "0 0.5 0.5 0.5 0.5"
    first = digest(write_detector(tmp_path / "bright.onnx"), boxes)
    assert digest((tmp_path / "bright.onnx").rename(tmp_path / "moved.onnx"), boxes) == first
    other = write_detector(tmp_path / "other.onnx", "things")
    assert len({first, digest(other, boxes), digest(tmp_path / "moved.onnx", others)}) == 3


def test_what_is_asked_for_and_cannot_be_measured_is_said_first(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    (tmp_path / "labels").mkdir()
    detector = write_detector(tmp_path / "bright.onnx")
    asked = Asked(str(tiny_bundle), SceneChoice("small"), placement=HERE)
    for extras, message in (
        ({"scores": ("MUSIQ",)}, r"MUSIQ: pyiqa is needed"),
        ({"detector": tmp_path / "gone.onnx"}, r"gone\.onnx: no such file"),
        (
            {"detector": detector, "labels": tmp_path / "labels"},
            r"no box of a class of bright\.onnx",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(RECIPE.model_copy(update=extras), settings, asked)
    assert not (settings.work / "reports").exists()
    with pytest.raises(ValueError, match="they are for a detector"):
        EvaluateRecipe(scenarios=("clean",), labels=tmp_path)
