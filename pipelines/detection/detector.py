"""Any detector that is an ONNX file, run by onnxruntime (extra: `pip install '.[detector]'`).

Two layouts of the output are read, told apart by its shape: 1×(4+C)×N, centre, size and the scores of C
classes for each of N places (YOLOv8 to 11 as they are exported), and 1×N×6, corners, score and class,
each thing once (YOLOv10, and exports with `nms=True`). Coordinates are pixels of the input.

Legend: C classes, N boxes, H W pixels.
"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from pipelines.detection.boxes import Boxes

# Ultralytics' own: least score for a precision curve, overlap from which a box is the same thing, most
# boxes of a picture, the grey of the margins, and what the sides of an input of any size are multiples of.
_MIN_SCORE, _SAME_THING, _MOST_BOXES = 0.001, 0.7, 300
_MARGIN = 114
_MULTIPLE_PX = 32


class DetectorFile(BaseModel):
    """An ONNX file by value: workers need not see the disk that it lies on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # For messages: it decides no number.
    name: str = Field(exclude=True)
    sha256: str
    data: bytes = Field(repr=False, exclude=True)


class Letterbox(NamedTuple):
    """Where a picture lies in the input: pixels of it are `scale` · x + (left, top)."""

    scale: float
    left: int
    top: int


class Detector:
    """Finds boxes in pictures. `names` are the classes by number, where the file has them."""

    def __init__(self, file: DetectorFile) -> None:
        self.name = file.name
        self._session = _session(file)
        self._input, self._height_px, self._width_px = _input_of(self._session, file.name)
        self.names = _names_of(self._session, file.name)

    def __call__(self, picture: np.ndarray) -> Boxes:
        """Boxes in a picture, uint8 H×W×3 RGB or H×W×1, in its pixels, scores from 0.001.

        Raises ValueError for an output that is in none of the layouts.
        """
        height, width = picture.shape[:2]
        colour = picture if picture.shape[2] == 3 else np.repeat(picture, 3, axis=2)
        placed, place = _placed(colour, *self._size(height, width))
        tensor = np.ascontiguousarray(placed.transpose(2, 0, 1)[None], np.float32) / 255  # 1 3 H W
        boxes = _boxes_of(self._session.run(None, {self._input: tensor})[0], self.name)
        corners = (boxes.corners - [place.left, place.top] * 2) / place.scale
        corners = np.clip(corners, 0, [width, height] * 2)
        # What is seen in the margins alone is not in the picture.
        inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return Boxes(corners[inside], boxes.classes[inside], boxes.scores[inside])

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The input's size in pixels for a picture: its own, where the file takes any."""
        free = (-(-side // _MULTIPLE_PX) * _MULTIPLE_PX for side in (height, width))
        fixed = self._height_px, self._width_px
        rows, columns = (mine or side for mine, side in zip(fixed, free, strict=True))
        return rows, columns


def read_detector(path: Path) -> DetectorFile:
    """Read a detector. Raises ValueError where it is not there or cannot be used as one."""
    if not path.is_file():
        raise ValueError(f"detector {path}: no such file; give an ONNX file")
    data = path.read_bytes()
    file = DetectorFile(name=path.name, sha256=hashlib.sha256(data).hexdigest(), data=data)
    # Before hours of work: the output's layout shows in a picture of nothing.
    Detector(file)(np.zeros((_MULTIPLE_PX, _MULTIPLE_PX, 3), np.uint8))
    return file


@lru_cache(maxsize=1)
def _session(file: DetectorFile) -> Any:
    try:
        import onnxruntime
    except ImportError as absent:
        raise ValueError(
            "a detector needs onnxruntime, which is not installed; pip install '.[detector]'"
        ) from absent
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # a worker has one core
    try:
        return onnxruntime.InferenceSession(file.data, options, ["CPUExecutionProvider"])
    except Exception as error:
        # Its exceptions have no parent of their own.
        raise ValueError(f"detector {file.name}: onnxruntime cannot load it ({error})") from error


def _input_of(session: Any, name: str) -> tuple[str, int | None, int | None]:
    """Name, height and width of the input; None for a side that is free."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape
    pictures = len(shape) == 4 and shape[1] == 3 and (shape[0] == 1 or isinstance(shape[0], str))
    if len(inputs) > 1 or len(outputs) > 1 or not pictures or inputs[0].type != "tensor(float)":
        raise ValueError(
            f"detector {name}: takes {[(i.type, i.shape) for i in inputs]} and gives {len(outputs)} "
            "outputs; export one with a single input of 1×3×H×W float32 and a single output"
        )
    height, width = (side if isinstance(side, int) else None for side in shape[2:])
    return inputs[0].name, height, width


def _names_of(session: Any, name: str) -> dict[int, str]:
    """The classes by number, as Ultralytics writes them; none where the file says nothing."""
    described = session.get_modelmeta().custom_metadata_map.get("names", "{}")
    try:
        names = ast.literal_eval(described)
        return {int(number): str(word) for number, word in names.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise ValueError(
            f"detector {name}: its metadata `names` is {described[:80]!r}; write {{0: 'person', …}}"
        ) from error


def _placed(picture: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Letterbox]:
    """A picture in the middle of an input, as large as it fits in."""
    rows, columns = picture.shape[:2]
    scale = min(height / rows, width / columns)
    size = round(columns * scale), round(rows * scale)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    margins = top, height - size[1] - top, left, width - size[0] - left
    grey = (_MARGIN,) * 3
    placed = cv2.copyMakeBorder(small, *margins, cv2.BORDER_CONSTANT, value=grey)
    return np.asarray(placed), Letterbox(scale, left, top)


def _boxes_of(output: np.ndarray, name: str) -> Boxes:
    """Boxes of an output, each thing once, in pixels of the input."""
    if output.ndim == 3 and output.shape[0] == 1 and output.shape[2] == 6:
        rows = output[0][output[0, :, 4] >= _MIN_SCORE]  # N 6
        return Boxes(rows[:, :4], rows[:, 5].astype(np.int64), rows[:, 4])
    if output.ndim == 3 and output.shape[0] == 1 and 5 <= output.shape[1] < output.shape[2]:
        return _things_of(output[0].T)
    raise ValueError(
        f"detector {name}: its output has the shape {output.shape}; 1×(4+C)×N (YOLOv8 to 11) and 1×N×6 "
        "(corners, score, class) are read: export it in one of these"
    )


def _things_of(places: np.ndarray) -> Boxes:
    """The boxes of N×(4+C) that are not a better one's again (non-maximum suppression by class)."""
    scores, classes = places[:, 4:].max(axis=1), places[:, 4:].argmax(axis=1)
    centres, sizes = places[:, :2], places[:, 2:4]
    corners = np.hstack([centres - sizes / 2, centres + sizes / 2])
    asked = np.hstack([corners[:, :2], sizes]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(
        asked.tolist(), scores.tolist(), classes.tolist(), _MIN_SCORE, _SAME_THING
    )
    best = np.asarray(kept, np.int64).reshape(-1)
    best = best[np.argsort(-scores[best], kind="stable")][:_MOST_BOXES]
    return Boxes(corners[best], classes[best], scores[best])
