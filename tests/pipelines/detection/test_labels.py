from pathlib import Path

import pytest

from pipelines.detection.labels import find_labels
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, scan
from pipelines.sources.scenes import Scene
from pipelines.synthetic.pairs import write_scenes

VOC = (
    "<annotation><object><name>{name}</name><bndbox><xmin>8</xmin><ymin>6</ymin><xmax>24</xmax>"
    "<ymax>18</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    write_scenes(tmp_path / "s", split_counts={"val": 2}, seed=1, height=48, width=64)
    return list(scan(tmp_path / "s", dataset="s", rules=ScanRules(layout=Layout())).scenes)


def test_yolo_and_voc_are_pixels(scenes: list[Scene], tmp_path: Path) -> None:
    beside = Path(scenes[0].source("vi")[0]).parent
    first, second = (Path(scene.source("vi")[0]).stem for scene in scenes)
    (beside / f"{first}.txt").write_text("1 0.25 0.25 0.25 0.25\n\n")
    (beside / f"{second}.xml").write_text(VOC.format(name="car"))
    found = find_labels(scenes, None, {0: "Person", 1: "Car"})
    for labels in found.labels.values():
        assert labels.corners == ((8, 6, 24, 18),)
        assert labels.classes == (1,)
    # In a folder, by the scene's name; a class that the detector does not know is counted.
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / f"{scenes[1].id}.xml").write_text(VOC.format(name="Tram"))
    found = find_labels(scenes, folder, {0: "Person"})
    assert found.labels.keys() == {scenes[1].id}
    assert found.labels[scenes[1].id].boxes().corners.shape == (0, 4)
    assert found.unknown == {"tram": 1}


@pytest.mark.parametrize(("end", "text"), [(".txt", "car 0 0 1 1"), (".xml", "<annotation>")])
def test_damaged_labels_are_named(end: str, text: str, scenes: list[Scene], tmp_path: Path) -> None:
    (tmp_path / f"{scenes[0].id}{end}").write_text(text)
    with pytest.raises(ValueError, match=rf"{scenes[0].id}{end}: not (YOLO|VOC)'s labels"):
        find_labels(scenes, tmp_path, {})
    with pytest.raises(ValueError, match="no such folder"):
        find_labels(scenes, tmp_path / "gone", {})
