"""Measure fusion methods on scenes under scenarios.

Methods get the degraded pair, the metrics compare with the high-quality one (`reference="hq"`).

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from degradations.catalogue import Modality
from models.devices import all_sent, sent, use_device
from models.metrics import EVALUATED, measurable, measure, measure_restored
from models.system import Fused, Fuser, Hints
from pipelines.bundles.export import Bundle
from pipelines.evaluation.baselines import BASELINES, Baseline
from pipelines.evaluation.extras import (
    Beside,
    Extras,
    LoadScores,
    Score,
    load_instruments,
    measure_extras,
)
from pipelines.evaluation.flicker import Motion, motion
from pipelines.evaluation.given_pictures import Given, given_pictures
from pipelines.results.rows import BASELINE, MODEL, RESTORED, Row, row_head
from pipelines.scenarios.degraded_pairs import Case, CleanAndDegraded, cases_of, degraded_pair
from pipelines.scenarios.hints import hints_of
from pipelines.scenarios.table import CLEAN_SCENARIO, Scenario, protocol_of
from pipelines.sources.pictures import to_tensor, to_uint8
from pipelines.sources.scenes import Read, Scene, load_pair, read_file


class Measurement(BaseModel):
    """What is measured how: the argument of the tasks that travel to workers.

    `given` holds pictures of other programs. `protocol` is a digest of what decides the numbers beside
    the model: rows of different ones are not compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Bundle
    scenarios: tuple[Scenario, ...]
    baselines: tuple[Baseline, ...] = (BASELINE,)
    given: tuple[Given, ...] = ()
    metrics: tuple[str, ...] = EVALUATED
    extras: Extras = Extras()
    seed: int = 0
    protocol: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method that has rows, in the order of tables."""
        theirs = (name for other in self.given for name in other.methods(self.baselines))
        return (MODEL, *self.baselines, *theirs)


@dataclass(frozen=True)
class Example:
    """Pictures of one scene under one scenario, uint8: VI H×W×3, IR H×W×1, fused H×W×C.

    `note` says why it is shown.
    """

    scene: str
    scenario: str
    vi: np.ndarray
    ir: np.ndarray
    vi_lq: np.ndarray
    ir_lq: np.ndarray
    fused: Mapping[str, np.ndarray]
    note: str = ""


@lru_cache(maxsize=1)
def _load_methods(
    bundle: Bundle, baselines: tuple[Baseline, ...], device: str
) -> Mapping[str, Fuser]:
    """The fuser of a bundle, on a device, and the baselines it is compared with, by name.

    A worker has many cases of one bundle, one after the other.
    """
    fuser = OnDevice(bundle.fuser(), use_device(device))
    return MappingProxyType({MODEL: fuser, **{name: BASELINES[name] for name in baselines}})


class OnDevice(nn.Module):
    """A fuser on a device: what it is given is sent there, and the picture comes back to the CPU."""

    def __init__(self, fuser: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.fuser, self.device = fuser.to(device), device

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        """Fuse a batch of pairs of one size; returns when the device is done."""
        there = (sent(vi, self.device), sent(ir, self.device), all_sent(hints or {}, self.device))
        found: Fused = self.fuser(*there)
        return _on_cpu(found)


class FusedPicture(NamedTuple):
    """A method's picture of a scene, B×3×H×W, beside the pair that it was made of.

    `head` is its row before the metrics; `source` names the picture in an error. `restored` are the
    sources B×C×H×W as the method restored them, None where it does not.
    """

    head: Row
    source: str
    fused: Tensor
    pair: CleanAndDegraded
    restored: Mapping[Modality, Tensor | None] = MappingProxyType({"vi": None, "ir": None})


def _no_scores(names: Sequence[str], device: str) -> Mapping[str, Score]:
    assert not names, "who asks for learned scores says how they are loaded"
    return {}


@dataclass(frozen=True)
class CaseMeasurer:
    """What fuses and measures a scene under a scenario, on a device, by every method of a measurement.

    It travels to workers without what is large: a process loads that once. `read` fetches sources by URI;
    `methods` are other fusers than the measurement's own.
    """

    measurement: Measurement
    methods: Mapping[str, Fuser] | None = None
    read: Read = read_file
    load_scores: LoadScores = _no_scores
    device: str = "cpu"

    @property
    def fusers(self) -> Mapping[str, Fuser]:
        """The methods, by name."""
        measurement = self.measurement
        if self.methods is not None:
            return self.methods
        return _load_methods(measurement.bundle, measurement.baselines, self.device)

    def pictures(self, case: Case, pair: CleanAndDegraded) -> Iterator[FusedPicture]:
        """Every method's picture of a degraded pair, made when it is asked for; then those that are given.

        Methods get the hints that they take from the degradation record; baselines read none.
        """
        scene, scenario = case
        measurement, degraded = self.measurement, pair.degraded
        names = measurement.bundle.system.hint_names
        hints = hints_of(names, vi=degraded.vi_chain, ir=degraded.ir_chain)
        for name, fuse in self.fusers.items():
            vi_lq, ir_lq = to_tensor(degraded.vi), to_tensor(degraded.ir)
            with torch.inference_mode():
                start = time.perf_counter()
                # On the CPU: the copy waits for the device and so belongs to the time.
                found = _on_cpu(fuse(vi_lq, ir_lq, hints))
                seconds = time.perf_counter() - start
            head = row_head(scene, scenario, name, seconds)
            source = f"{scene.id}, {scenario.name}, method {name!r}"
            yield FusedPicture(head, source, found.fused, pair, {"vi": found.vi, "ir": found.ir})
        theirs = given_pictures(case, degraded, measurement.given, measurement.baselines)
        for name, source, fused in theirs:
            # How long another program took is not known here.
            yield FusedPicture(row_head(scene, scenario, name, math.nan), source, fused, pair)

    def extras(self, picture: FusedPicture, beside: Beside) -> dict[str, Any]:
        """What is measured of a picture on request. Raises ValueError as `load_instruments` does."""
        extras = self.measurement.extras
        instruments = load_instruments(extras, self.load_scores, self.device)
        labels = extras.labels.get(picture.head["scene"])
        sources = picture.pair.vi, picture.pair.ir
        return measure_extras(picture.fused, sources, beside, instruments, extras, labels)

    def beside(self, case: Case) -> dict[str, Beside]:
        """What the extras compare each method's picture of a case with."""
        extras, scene = self.measurement.extras, case.scene
        frame = extras.before.get(scene.id)
        before = cases_of([frame], [case.scenario]) if frame else []
        clean = [Case(scene, CLEAN_SCENARIO)] if extras.detector else []
        earlier, undegraded = (self._fused(cases) for cases in (before, clean))
        moves = self._motion(before[0].scene, scene) if before else None
        return {
            name: Beside(undegraded.get(name), earlier.get(name), moves)
            for name in {*earlier, *undegraded}
        }

    def _fused(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """The fused pictures of at most one case, by method."""
        return {
            picture.head["method"]: picture.fused
            for case in cases
            for picture in self.pictures(
                case, degraded_pair(case, seed=self.measurement.seed, read=self.read)
            )
        }

    def _motion(self, before: Scene, scene: Scene) -> Motion:
        (vi_before, _), (vi, _) = load_pair(before, self.read), load_pair(scene, self.read)
        return motion(vi_before, vi)


def measure_case(case: Case, measurer: CaseMeasurer) -> list[Row]:
    """A row a method of a scene under a scenario: the unit of work that goes to a worker.

    Raises ValueError, naming scene and method, for a fused picture that cannot be measured.
    """
    measurement = measurer.measurement
    protocol = {"protocol": protocol_of(case.scenario, measurement.protocol)}
    pair = degraded_pair(case, seed=measurement.seed, read=measurer.read)
    beside = measurer.beside(case)
    return [
        picture.head
        | protocol
        | metrics_of(picture, measurement.metrics)
        | (_restored(picture) if measurement.bundle.system.restores_sources else {})
        | measurer.extras(picture, beside.get(picture.head["method"], Beside()))
        for picture in measurer.pictures(case, pair)
    ]


def metrics_of(picture: FusedPicture, metrics: Sequence[str]) -> dict[str, float]:
    """Metrics of a picture against its clean pair. Raises ValueError that names the picture."""
    vi, ir = to_tensor(picture.pair.vi), to_tensor(picture.pair.ir)
    try:
        values = measure(picture.fused, vi, ir, metrics)
    except ValueError as error:
        raise ValueError(f"{picture.source}: {error}") from error
    return {name: float(value) for name, value in values.items()}


def _restored(picture: FusedPicture) -> dict[str, float]:
    """PSNR and SSIM of both restored sources; NaN for a method that restores none."""
    values = dict.fromkeys(RESTORED, math.nan)
    cleans: Mapping[Modality, np.ndarray] = {"vi": picture.pair.vi, "ir": picture.pair.ir}
    for camera, clean in cleans.items():
        restored = picture.restored[camera]
        if restored is not None:
            found = measure_restored(restored, to_tensor(clean))
            values |= {f"{name}_{camera}": float(value) for name, value in found.items()}
    return values


def _on_cpu(found: Fused) -> Fused:
    vi, ir = (x if x is None else x.to("cpu", torch.float32) for x in (found.vi, found.ir))
    return Fused(found.fused.to("cpu", torch.float32), vi, ir)


def steps_means(
    num_steps: int, scenes: Sequence[Scene], measurer: CaseMeasurer
) -> dict[str, float]:
    """Mean of every metric with another number of sampling steps than the model was trained with.

    Raises ValueError for a model that does not sample.
    """
    bundle = measurer.measurement.bundle
    set_num_steps = bundle.system.set_num_steps
    if set_num_steps is None or bundle.system.num_steps(bundle.model) is None:
        raise ValueError(f"{bundle.source}: this model does not sample in steps; unset steps")
    fuser = bundle.fuser()
    set_num_steps(fuser, num_steps)
    plain = measurer.measurement.model_copy(update={"given": (), "extras": Extras()})
    there = OnDevice(fuser, use_device(measurer.device))
    alone = replace(measurer, measurement=plain, methods={MODEL: there})
    rows = [row for case in cases_of(scenes, plain.scenarios) for row in measure_case(case, alone)]
    # Without seconds: tasks run beside each other. They come back in any order.
    means = {name: float(np.mean([row[name] for row in rows])) for name in plain.metrics}
    return {"num_steps": float(num_steps)} | means


def make_example(case: Case, measurer: CaseMeasurer, note: str = "") -> Example:
    """The pictures of a case, by the methods of a measurer and those that are given."""
    pair = degraded_pair(case, seed=measurer.measurement.seed, read=measurer.read)
    pictures = measurer.pictures(case, pair)
    fused = {picture.head["method"]: to_uint8(picture.fused) for picture in pictures}
    names = case.scene.id, case.scenario.name
    return Example(*names, pair.vi, pair.ir, pair.degraded.vi, pair.degraded.ir, fused, note)


def metrics_for(scenes: Sequence[Scene], more: Sequence[str] = ()) -> tuple[str, ...]:
    """The default metrics, and more, that even the smallest of the scenes is large enough for."""
    height, width = min(s.height for s in scenes), min(s.width for s in scenes)
    return measurable(height, width, tuple(dict.fromkeys((*EVALUATED, *more))))


def choose_scenes(scenes: Sequence[Scene], count: int | None) -> tuple[Scene, ...]:
    """The first `count` scenes (None: all), as many of each data set as there are, in their order."""
    turns: dict[str, int] = defaultdict(int)
    places = []
    for place, scene in enumerate(scenes):
        places.append((turns[scene.dataset], place))
        turns[scene.dataset] += 1
    return tuple(scenes[place] for place in sorted(place for _, place in sorted(places)[:count]))
