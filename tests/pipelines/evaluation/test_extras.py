import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.devices import use_device
from models.metrics import DIRECTION
from pipelines.detection.boxes import Judged
from pipelines.evaluation.extras import (
    Extras,
    Score,
    frames_before,
    load_instruments,
    score_picture,
)
from pipelines.results.rows import (
    AGREEMENT,
    AP,
    BETTER,
    DETECTIONS,
    EXTRAS,
    FLICKER,
    LPIPS,
    Row,
    read_rows,
    write_rows,
)
from pipelines.results.summaries import OVERALL, summarise
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, scan

VAL = ScanRules(layout=Layout(split="val"))


def test_frames_follow_each_other_where_their_numbers_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for camera in ("vi", "ir"):
        (tmp_path / camera).mkdir()
        for name in ("f0005", "f0010", "f0015", "f0040", "f0045", "still"):
            picture = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / camera / f"{name}.png"), picture)
    scenes = list(scan(tmp_path, dataset="d", rules=VAL).scenes)
    found = {after: before.id for after, before in frames_before(scenes[::-1]).items()}
    assert found == {
        "d-val-f0010": "d-val-f0005",
        "d-val-f0015": "d-val-f0010",
        "d-val-f0045": "d-val-f0040",
    }
    with pytest.raises(ValueError, match="no scene follows another"):
        frames_before(scenes[-1:])


def test_scores_see_colours_and_the_target_is_the_brighter_source() -> None:
    vi, ir = torch.zeros(1, 3, 8, 8), torch.full((1, 1, 8, 8), 0.4)
    vi[..., :4] = 0.8
    target = torch.where(torch.arange(8) < 4, 0.8, 0.4).expand(1, 1, 8, 8)

    def distance(picture: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        assert picture.shape == other.shape == (1, 3, 8, 8)
        return (picture - other).abs().mean()

    scores = {LPIPS: distance, "MUSIQ": lambda picture: picture.sum(dim=(1, 2, 3))}
    values = score_picture(target, vi, ir, scores)
    assert values == {LPIPS: 0, "MUSIQ": pytest.approx(3 * 64 * 0.6)}


def test_scores_are_loaded_for_a_device_that_exists() -> None:
    asked: list[object] = []

    def load(names: Sequence[str], device: str) -> dict[str, Score]:
        asked.extend((names, torch.device(device).type))
        return {}

    assert load_instruments(Extras(scores=("PI",)), load, "auto").detector is None
    assert asked == [("PI",), use_device("auto").type]


def row(scene: str, method: str, **values: object) -> Row:
    head = {"scene": scene, "dataset": "d", "scenario": "clean", "method": method}
    size = {"reference": "hq", "width": 8, "height": 6, "seconds": 0.1}
    return head | size | {"metric_version": "1", "protocol": "p", "VIF": 0.5} | values


def judged(*hits: bool, score: float = 0.9) -> Judged:
    found = [{"label": 0, "score": score, "hit": hit} for hit in hits]
    return {"found": found, "labelled": [0]}  # type: ignore[typeddict-item]


def test_means_are_over_what_has_a_value_and_precision_over_all_pictures(tmp_path: Path) -> None:
    rows = [
        row(
            "a", "m", flicker=math.nan, **{AGREEMENT: math.nan, DETECTIONS: judged(True, score=0.5)}
        ),
        row("b", "m", flicker=4.0, **{AGREEMENT: math.nan, DETECTIONS: None}),
        row("c", "m", flicker=6.0, **{AGREEMENT: math.nan, DETECTIONS: judged(False)}),
    ]
    write_rows(rows, tmp_path / "rows.parquet")
    summary = summarise(read_rows(tmp_path / "rows.parquet"))
    means = {metric: summary.means[OVERALL, "m", metric] for metric in summary.extras}
    assert means[FLICKER] == 5
    # The surest detection is wrong, the other finds one of two labels: half of half.
    assert means[AP] == 0.25
    assert math.isnan(means[AGREEMENT])


def test_every_extra_says_what_is_better() -> None:
    assert not EXTRAS.keys() & DIRECTION.keys()
    assert BETTER == {**DIRECTION, **EXTRAS}
