"""An evaluation on Ray: what it leaves behind, and that it goes on where it was stopped."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from jobs.evaluate.report import REPORT
from jobs.evaluate.run import evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import ROWS, Asked
from jobs.recipes.kinds import EvaluateRecipe
from jobs.scan.run import scan_folder
from pipelines.promotion.lineage import SCENES
from pipelines.results.rows import MODEL, read_rows
from pipelines.sources.pictures import encode_png
from pipelines.synthetic.pairs import write_scenes

pytestmark = pytest.mark.ray

RECIPE = EvaluateRecipe(scenarios=("clean", "vi_blur"), steps=(2,), num_examples=1)


@pytest.fixture
def settings(ray_settings: Settings, tmp_path: Path) -> Settings:
    """A work folder with the index `small`: three rendered pairs."""
    settings = ray_settings.model_copy(update={"work": tmp_path / "work"})
    write_scenes(tmp_path / "small", split_counts={"val": 3}, seed=1, height=48, width=64)
    scan_folder(tmp_path / "small", settings, name="small")
    return settings


def fused_folder(folder: Path) -> Path:
    folder.mkdir()
    for index in range(3):
        image = np.full((48, 64, 1), 50 * index, np.uint8)
        (folder / f"{index:04d}.PNG").write_bytes(encode_png(image))
    return folder


def test_it_goes_on_where_it_was_stopped(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = fused_folder(tmp_path / "others")
    asked = Asked(str(tiny_bundle), SceneChoice("small"), folders={"grey": others})
    last = tmp_path / "small" / "val" / "vi" / "0002.png"
    last.rename(tmp_path / "away.png")
    with pytest.raises(ValueError, match=r"0002\.png: no such file"):
        evaluate(RECIPE, settings, asked)
    parts = [*(settings.work / "reports").glob("*/parts/*.parquet")]
    # By scene and scenario: what was done of the others is kept, one that was under way is lost.
    assert 2 <= len(parts) <= 4
    before = [row for part in parts for row in read_rows(part)]
    (tmp_path / "away.png").rename(last)
    capsys.readouterr()
    evaluated = evaluate(RECIPE, settings, asked)
    said = capsys.readouterr().out
    assert f"{len(parts)} of 6 were measured before" in said
    assert re.search(
        rf"{6 - len(parts)} left under scenarios, 4 methods: about [\d.]+ (s|min) on \d", said
    )
    rows = read_rows(evaluated.folder / ROWS)
    assert all(row in rows for row in before if row["method"] != "grey")
    assert len(rows) == 3 * (2 * 3 + 1)
    assert rows[0]["method"] == MODEL
    assert {path.name for path in evaluated.folder.iterdir()} == {REPORT, ROWS, SCENES}
    assert evaluated.means.keys() == {MODEL, "average", "maximum"}
    page = (evaluated.folder / REPORT).read_text()
    for heading in (
        "Confidence intervals",
        "Worst cases",
        "Sampling steps",
        "Efficiency",
        "Degradation priors",
    ):
        assert heading in page, heading
    evaluate(RECIPE, settings, asked)
    assert "evaluated already" in capsys.readouterr().out


def test_another_method_must_have_every_picture(
    settings: Settings, tiny_bundle: Path, tmp_path: Path
) -> None:
    others = fused_folder(tmp_path / "others")
    (others / "0001.PNG").unlink()
    asked = Asked(str(tiny_bundle), SceneChoice("small"), folders={"grey": others})
    with pytest.raises(ValueError, match=r"--method grey: .* no picture for 1 of 3 scenes"):
        evaluate(RECIPE, settings, asked)
    with pytest.raises(ValueError, match="--method average: taken"):
        evaluate(RECIPE, settings, replace(asked, folders={"average": others}))
    blurred = RECIPE.model_copy(update={"scenarios": ("vi_blur",)})
    with pytest.raises(ValueError, match="lacks 'clean'"):
        evaluate(blurred, settings, asked)
    with pytest.raises(ValueError, match=r"no split 'test', it has val \(3 scenes\).*--hold-out"):
        evaluate(RECIPE, settings, replace(asked, scenes=SceneChoice("small", "test")))


@pytest.mark.slow
def test_several_data_sets_have_rows_each(
    settings: Settings, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("alpha", "beta")):
        sources = tmp_path / "several" / name
        write_scenes(sources, split_counts={"val": 2}, seed=seed, height=48, width=64)
    scan_folder(tmp_path / "several", settings, name="several")
    asked = Asked(str(tiny_bundle), SceneChoice("several"))
    few = RECIPE.model_copy(update={"num_scenes": 2, "scenarios": ("clean",), "steps": ()})
    capsys.readouterr()
    both = evaluate(few, settings, asked)
    shown = capsys.readouterr().out
    assert {row["dataset"] for row in read_rows(both.folder / ROWS)} == {"alpha", "beta"}
    lines = [line.split() for line in shown.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["alpha"], ["beta"])] == [
        ["alpha", "1"],
        ["beta", "1"],
    ]
    assert "By data set" in (both.folder / REPORT).read_text()
    beta, gamma = (SceneChoice("several", dataset=name) for name in ("beta", "gamma"))
    one = evaluate(few, settings, replace(asked, scenes=beta))
    assert one.folder.name.startswith("several-beta-val-")
    assert {row["scene"] for row in read_rows(one.folder / ROWS)} == {
        "beta-val-0000",
        "beta-val-0001",
    }
    with pytest.raises(ValueError, match="no scene of data set 'gamma'"):
        evaluate(few, settings, replace(asked, scenes=gamma))
