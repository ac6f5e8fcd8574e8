"""How long an evaluation takes: a trial on a part of its first case."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from models.metrics import measurable
from pipelines.evaluation.extras import Beside
from pipelines.evaluation.measuring import CaseMeasurer, metrics_of
from pipelines.scenarios.degraded_pairs import Case, CleanAndDegraded, degraded_pair

# Large enough for every metric that is measured, small enough for a second or two.
_FORECAST_PX = 256


def forecast_s(measurer: CaseMeasurer, cases: Sequence[Case]) -> float:
    """Seconds that cases take one after the other, from a part of the first one.

    Fusing and measuring grow with the pixels; reading and degrading are timed on the whole pair.
    """
    case, num_threads = cases[0], torch.get_num_threads()
    torch.set_num_threads(1)  # what a worker has
    try:
        # The first pass pays for what is made once.
        for _ in range(2):
            started = time.perf_counter()
            pair = degraded_pair(case, seed=measurer.measurement.seed, read=measurer.read)
            prepared = time.perf_counter() - started
            small = _cropped(pair)
            seconds = _tried(measurer, case, small)
    finally:
        torch.set_num_threads(num_threads)
    pixels = sum(scene.width * scene.height for scene, _ in cases)
    return (seconds / small.ir.size + prepared / pair.ir.size) * pixels


def _tried(measurer: CaseMeasurer, case: Case, pair: CleanAndDegraded) -> float:
    """Seconds to fuse a small pair by every method, and to measure as many pictures as a case has."""
    measurement = measurer.measurement
    # Given pictures are of the whole pair, and take no time to make.
    own = replace(measurer, measurement=measurement.model_copy(update={"given": ()}))
    started = time.perf_counter()
    pictures = [*own.pictures(case, pair)]
    fused = time.perf_counter()
    metrics_of(pictures[0], measurable(pair.ir.shape[0], pair.ir.shape[1], measurement.metrics))
    measurer.extras(pictures[0], Beside(clean=pictures[0].fused))
    a_measure = time.perf_counter() - fused
    fusing = (fused - started) * measurement.extras.num_fusings
    return fusing + a_measure * len(measurement.methods)


def _cropped(pair: CleanAndDegraded) -> CleanAndDegraded:
    """The corner of a pair that a forecast is made from."""
    rows = columns = slice(_FORECAST_PX)
    degraded = pair.degraded
    corners = degraded.vi[rows, columns], degraded.ir[rows, columns]
    degraded = degraded._replace(vi=corners[0], ir=corners[1])
    return CleanAndDegraded(pair.vi[rows, columns], pair.ir[rows, columns], degraded)
