import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.detection import detector as module
from pipelines.detection.boxes import agreement
from pipelines.detection.detector import Detector, read_detector
from tests.bright_cells import write_detector

pytest.importorskip("onnxruntime", reason="the extra `detector` is not installed")


def with_lamp() -> np.ndarray:
    """A dark picture of 32 rows and 64 columns, bright in rows 0 to 15 and columns 32 to 47."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, 32:48] = 255
    return picture


@pytest.mark.parametrize("layout", ["places", "things"])
def test_boxes_are_in_pixels_of_the_picture(layout: str, tmp_path: Path) -> None:
    file = read_detector(write_detector(tmp_path / "d.onnx", layout))  # type: ignore[arg-type]
    detector = Detector(file)
    # It is put in at half its size, 8 rows below the top.
    boxes = detector(with_lamp()).above(0.9)
    assert boxes.corners.tolist() == [[32, 0, 48, 16]]
    assert boxes.classes.tolist() == [0]
    # The margins are grey, and no part of the picture.
    assert len(detector(with_lamp()).above(0.4).classes) == 1
    assert agreement(detector(with_lamp()), detector(with_lamp())) == 1
    assert detector.names == {0: "Lamp"}
    assert len(detector(with_lamp()[:, :, :1]).above(0.9).classes) == 1


def test_the_same_thing_is_found_once() -> None:
    # Centre, size, scores of two classes: two boxes almost the same, and one of the other class.
    places = np.array(
        [[[10, 11, 10], [10, 10, 10], [8, 8, 8], [8, 8, 8], [0.9, 0.8, 0], [0, 0, 0.7]]]
    )
    wide = np.concatenate([places, np.zeros((1, 6, 9))], axis=2).astype(np.float32)
    boxes = module._boxes_of(wide, "d")
    assert boxes.classes.tolist() == [0, 1]
    assert boxes.scores.tolist() == pytest.approx([0.9, 0.7])


def test_what_is_no_such_detector_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"gone\.onnx: no such file"):
        read_detector(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("not one")
    with pytest.raises(ValueError, match=r"text\.onnx: onnxruntime cannot load it"):
        read_detector(tmp_path / "text.onnx")
    other = write_detector(tmp_path / "other.onnx", "other")
    with pytest.raises(ValueError, match=r"other\.onnx: its output has the shape \(1, 16, 9\)"):
        read_detector(other)
    with pytest.raises(ValueError, match=r"odd\.onnx: its metadata `names` is 'lamps'"):
        read_detector(write_detector(tmp_path / "odd.onnx", names="lamps"))
    module._session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"not installed; pip install '\.\[detector\]'"):
        read_detector(other)
