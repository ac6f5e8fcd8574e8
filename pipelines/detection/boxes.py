"""Boxes around things in a picture, how those of two sources match, and the average precision.

Legend: N boxes, M wanted boxes, K detections of a class in all pictures.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np

# PASCAL VOC's, which is COCO's AP50.
MIN_OVERLAP = 0.5


class Boxes(NamedTuple):
    """Boxes of a picture: corners x1 y1 x2 y2 in pixels (N×4), classes (N), scores (N; 1 for labels)."""

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def above(self, score: float) -> Boxes:
        """Those with at least this score."""
        kept = self.scores >= score
        return Boxes(self.corners[kept], self.classes[kept], self.scores[kept])


class Detection(TypedDict):
    """A detected box against the labels of its picture: `hit` where it is one that nobody had found."""

    label: int
    score: float
    hit: bool


class Judged(TypedDict):
    """The detections in a picture, and the classes of its labelled boxes, each as often as it is there."""

    found: list[Detection]
    labelled: list[int]


def overlaps(corners: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Intersection over union of every box (N×4) with every wanted one (M×4): N×M."""
    low = np.maximum(corners[:, None, :2], wanted[None, :, :2])  # N M 2
    high = np.minimum(corners[:, None, 2:], wanted[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)  # N M
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (corners, wanted)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def judge(found: Boxes, wanted: Boxes) -> Judged:
    """Which of the found boxes are wanted ones, best scores first.

    PASCAL VOC (Everingham et al. 2010, 4.2): a box belongs to the wanted one of its class that it
    overlaps most, from an intersection over union of a half; each is found once.
    """
    order = np.argsort(-found.scores, kind="stable")
    same = found.classes[:, None] == wanted.classes[None]  # N M
    shared = np.where(same, overlaps(found.corners, wanted.corners), 0.0)
    taken: set[int] = set()
    detections: list[Detection] = []
    for i in order:
        best = int(shared[i].argmax()) if shared.shape[1] else -1
        hit = best >= 0 and shared[i, best] >= MIN_OVERLAP and best not in taken
        if hit:
            taken.add(best)
        label, score = int(found.classes[i]), float(found.scores[i])
        detections.append(Detection(label=label, score=score, hit=hit))
    return Judged(found=detections, labelled=[int(label) for label in wanted.classes])


def agreement(found: Boxes, expected: Boxes) -> float:
    """Share of the boxes of two detections that the other has, too (F1): 1 where they agree.

    NaN where neither has a box: two empty pictures say nothing.
    """
    number = len(found.classes) + len(expected.classes)
    if number == 0:
        return math.nan
    hits = sum(detection["hit"] for detection in judge(found, expected)["found"])
    return 2 * hits / number


def average_precision(pictures: Sequence[Judged]) -> float:
    """Area under precision over recall in all pictures, the mean of the labelled classes.

    Interpolated at every recall, as PASCAL VOC does since 2010. NaN where nothing is labelled.
    """
    labelled = Counter(label for picture in pictures for label in picture["labelled"])
    found: dict[int, list[Detection]] = defaultdict(list)
    for picture in pictures:
        for detection in picture["found"]:
            found[detection["label"]].append(detection)
    areas = [_area(found[label], count) for label, count in sorted(labelled.items())]
    return float(np.mean(areas)) if areas else math.nan


def _area(found: Sequence[Detection], num_labelled: int) -> float:
    best_first = sorted(found, key=lambda detection: -detection["score"])
    hits = np.cumsum([detection["hit"] for detection in best_first])  # K
    precision = hits / np.arange(1, len(hits) + 1)
    # The best that can be had at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.concatenate([[0.0], hits / num_labelled])
    return float(np.sum(np.diff(recall) * envelope))
