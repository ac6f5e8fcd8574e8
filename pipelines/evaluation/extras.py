"""What is measured beside the metrics where it is asked for: learned scores, flicker, a detector's finds.

They need more than a picture and its sources: weights, the frame before, the picture of the clean pair.

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.devices import use_device
from models.metrics import to_grey
from pipelines.detection.boxes import agreement, judge
from pipelines.detection.detector import Detector, DetectorFile
from pipelines.detection.labels import Labels
from pipelines.evaluation.flicker import Motion, warping_error
from pipelines.results.rows import AGREEMENT, DETECTIONS, FLICKER, LPIPS, ScoreName
from pipelines.sources.pictures import to_tensor, to_uint8
from pipelines.sources.scenes import Scene

# From this score on a thing counts as seen (what Ultralytics shows); precision takes all of them.
_SEEN_SCORE = 0.25

Score = Callable[..., Tensor]
LoadScores = Callable[[Sequence[str], str], Mapping[str, Score]]


class Extras(BaseModel):
    """What is asked for. `before` has the frame before by the id of a scene, `labels` its boxes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: tuple[ScoreName, ...] = ()
    sequence: bool = False
    # Follows from the scenes: where they lie decides no number.
    before: dict[str, Scene] = Field(default={}, exclude=True)
    detector: DetectorFile | None = None
    labels: dict[str, Labels] = {}

    @property
    def num_fusings(self) -> int:
        """How often a method fuses for one scene under a scenario."""
        return 1 + self.sequence + (self.detector is not None)


class Instruments(NamedTuple):
    """What extras are measured with, made once in a process."""

    scores: Mapping[str, Score] = {}
    detector: Detector | None = None


class Beside(NamedTuple):
    """What a method's picture is compared with: its picture of the clean pair, and of the frame before.

    B×C×H×W; None where there is none, or nothing needs it.
    """

    clean: Tensor | None = None
    before: Tensor | None = None
    moves: Motion | None = None


def load_instruments(extras: Extras, load_scores: LoadScores, device: str) -> Instruments:
    """Make ready what extras need. Raises ValueError, with the remedy, for what is not installed."""
    detector = Detector(extras.detector) if extras.detector else None
    return Instruments(load_scores(extras.scores, str(use_device(device))), detector)


def measure_extras(
    picture: Tensor,
    sources: tuple[np.ndarray, np.ndarray],
    beside: Beside,
    instruments: Instruments,
    extras: Extras,
    labels: Labels | None,
) -> dict[str, Any]:
    """The extras of a fused picture (B×C×H×W) of a scene, by the names of their columns.

    `sources` are the undegraded VI H×W×3 and IR H×W×1.
    """
    vi, ir = map(to_tensor, sources)
    values: dict[str, Any] = score_picture(picture, vi, ir, instruments.scores)
    if extras.sequence:
        values[FLICKER] = _flicker(picture, beside)
    if instruments.detector:
        found = instruments.detector(to_uint8(picture))
        values[AGREEMENT] = math.nan
        if beside.clean is not None:
            expected = instruments.detector(to_uint8(beside.clean)).above(_SEEN_SCORE)
            values[AGREEMENT] = agreement(found.above(_SEEN_SCORE), expected)
        if extras.labels:
            values[DETECTIONS] = judge(found, labels.boxes()) if labels else None
    return values


def score_picture(
    fused: Tensor, vi: Tensor, ir: Tensor, scores: Mapping[str, Score]
) -> dict[str, float]:
    """Scores of a fused picture (B×C×H×W, B being 1).

    LPIPS_target is its distance from the target of PSNR_target: the brighter source in each pixel, in grey.
    """
    values = {}
    with torch.inference_mode():
        for name, score in scores.items():
            if name == LPIPS:
                f, b, a = (to_grey(x.to("cpu")).float()[:, None] / 255 for x in (fused, vi, ir))
                pictures = [x.expand(-1, 3, -1, -1) for x in (f, torch.maximum(a, b))]
            else:
                pictures = [fused.expand(-1, 3, -1, -1)]
            values[name] = float(score(*pictures))
    return values


def _flicker(picture: Tensor, beside: Beside) -> float:
    """NaN for a first frame."""
    if beside.before is None or beside.moves is None:
        return math.nan
    return warping_error(to_uint8(beside.before), to_uint8(picture), beside.moves)


def frames_before(scenes: Sequence[Scene]) -> dict[str, Scene]:
    """The frame before by the id of a scene, for scenes that are frames: numbered pictures of a folder.

    The usual step of a folder's numbers is from a frame to the next (0001, 0002, or 0005, 0010); after a
    gap a new sequence begins. Raises ValueError where no scene follows another.
    """
    folders: dict[tuple[str, str, int, int], list[tuple[int, Scene]]] = defaultdict(list)
    for scene in scenes:
        uri, _ = scene.source("vi")
        numbers = re.findall(r"\d+", Path(uri).stem)
        if numbers:
            place = scene.dataset, uri.rpartition("/")[0], scene.width, scene.height
            folders[place].append((int(numbers[-1]), scene))
    found: dict[str, Scene] = {}
    for frames in folders.values():
        steps = list(pairwise(sorted(frames, key=lambda frame: frame[0])))
        usual = Counter(after - number for (number, _), (after, _) in steps).most_common(1)
        for (number, before), (after, scene) in steps:
            if usual and after - number == usual[0][0]:
                found[scene.id] = before
    if not found:
        raise ValueError(
            "sequence: no scene follows another; name frames by number (0001, 0002, …), a folder a sequence"
        )
    return found
