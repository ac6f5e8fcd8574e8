"""Labelled boxes of scenes: YOLO's .txt and PASCAL VOC's .xml files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipelines.detection.boxes import Boxes
from pipelines.sources.scenes import Scene


class Labels(BaseModel):
    """Labelled boxes of a scene: corners x1 y1 x2 y2 in pixels, and a class each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corners: tuple[tuple[float, float, float, float], ...]
    classes: tuple[int, ...]

    def boxes(self) -> Boxes:
        """As boxes with the score 1."""
        corners = np.asarray(self.corners, np.float64).reshape(-1, 4)
        return Boxes(corners, np.asarray(self.classes, np.int64), np.ones(len(self.classes)))


class Labelled(NamedTuple):
    """The labels of those scenes that have a file of them, by id; and how many boxes are of classes that
    the detector does not know, by name.
    """

    labels: dict[str, Labels]
    unknown: Counter[str]


def find_labels(scenes: Sequence[Scene], folder: Path | None, names: Mapping[int, str]) -> Labelled:
    """Read the labels of scenes, from a folder or, without one, beside their visible pictures.

    A file is called as the scene or as its visible source. YOLO's classes are the detector's numbers,
    VOC's its `names`, in whatever case. Raises ValueError, naming the file, for one that is damaged.
    """
    if folder and not folder.is_dir():
        raise ValueError(f"labels {folder}: no such folder of .txt (YOLO) or .xml (VOC) files")
    found = Labelled({}, Counter())
    for scene in scenes:
        path = _file_of(scene, folder)
        if path and path.suffix == ".xml":
            found.labels[scene.id] = _read_voc(path, names, found.unknown)
        elif path:
            found.labels[scene.id] = _read_yolo(path, scene)
    return found


def _file_of(scene: Scene, folder: Path | None) -> Path | None:
    uri, _ = scene.source("vi")
    if folder is None and "://" in uri:
        return None
    place, source = folder or Path(uri).parent, Path(uri).stem
    files = (place / f"{stem}{end}" for stem in (scene.id, source) for end in (".txt", ".xml"))
    return next((path for path in files if path.is_file()), None)


def _read_yolo(path: Path, scene: Scene) -> Labels:
    """`class x y width height` a line: the middle and the size, in shares of the picture."""
    corners, classes = [], []
    for line in path.read_text(errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            label, *shares = line.split()
            x, y, width, height = map(float, shares)
            classes.append(int(label))
        except ValueError as error:
            raise ValueError(
                f"{path}: not YOLO's labels, in {line!r}; a line is: class x y width height"
            ) from error
        low, high = (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
        sides = scene.width, scene.height
        corners.append(
            (low[0] * sides[0], low[1] * sides[1], high[0] * sides[0], high[1] * sides[1])
        )
    return Labels(corners=tuple(corners), classes=tuple(classes))


def _read_voc(path: Path, names: Mapping[int, str], unknown: Counter[str]) -> Labels:
    numbers = {name.lower(): number for number, name in names.items()}
    corners, classes = [], []
    try:
        for thing in ElementTree.parse(path).getroot().iter("object"):
            name = thing.findtext("name", "").strip().lower()
            x1, y1, x2, y2 = (
                float(thing.findtext(f"bndbox/{side}", ""))
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if name in numbers:
                classes.append(numbers[name])
                corners.append((x1, y1, x2, y2))
            else:
                unknown[name] += 1
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: not VOC's labels ({error})") from error
    return Labels(corners=tuple(corners), classes=tuple(classes))
