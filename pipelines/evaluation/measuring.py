"""Measure fusion methods on scenes under scenarios.

Methods get the degraded pair, the metrics compare with the high-quality one (`reference="hq"`).

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.devices import all_sent, sent, use_device
from models.metrics import EVALUATED, measurable, measure
from models.system import Fused, Fuser, Hints
from pipelines.bundles.export import Bundle
from pipelines.evaluation.baselines import BASELINES, Baseline
from pipelines.evaluation.hints import hints_of
from pipelines.evaluation.method_folders import pictures_by_stem, read_picture
from pipelines.evaluation.rows import BASELINE, MODEL, Row, row_head
from pipelines.evaluation.scenarios import CLEAN_SCENARIO, Degraded, Scenario, degrade, protocol_of
from pipelines.sources.names import same_name
from pipelines.sources.pictures import to_tensor, to_uint8
from pipelines.sources.scenes import Read, Scene, fetched_scenes, load_pair, read_file


class Measurement(BaseModel):
    """What is measured how: the argument of the tasks that travel to workers.

    `folders` holds other methods' fused pictures of the clean pairs, by method. `protocol` is a digest of
    what decides the numbers beside the model: rows of different ones are not compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Bundle
    scenarios: tuple[Scenario, ...]
    baselines: tuple[Baseline, ...] = (BASELINE,)
    folders: dict[str, Path] = {}
    metrics: tuple[str, ...] = EVALUATED
    seed: int = 0
    protocol: str = ""


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


def methods_of(measurement: Measurement, device: str = "cpu") -> dict[str, Fuser]:
    """The fuser of a bundle, on a device, and the baselines it is compared with, by name."""
    return {
        MODEL: OnDevice(measurement.bundle.fuser(), use_device(device)),
        **{name: BASELINES[name] for name in measurement.baselines},
    }


class OnDevice(nn.Module):
    """A fuser on a device: what it is given is sent there, and the picture comes back to the CPU."""

    def __init__(self, fuser: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.fuser, self.device = fuser.to(device), device

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        """Fuse a batch of pairs of one size; returns when the device is done."""
        there = (sent(vi, self.device), sent(ir, self.device), all_sent(hints or {}, self.device))
        found: Fused = self.fuser(*there)
        return Fused(found.fused.cpu())


class FusedPicture(NamedTuple):
    """A method's picture of a scene, B×3×H×W, beside the clean pair and what the method was given.

    `head` is its row before the metrics; `source` names the picture in an error.
    """

    head: Row
    source: str
    fused: Tensor
    vi: np.ndarray
    ir: np.ndarray
    degraded: Degraded


def evaluate_scenes(
    scenes: Sequence[Scene],
    measurement: Measurement,
    read: Read = read_file,
    device: str = "cpu",
    *,
    methods: Mapping[str, Fuser] | None = None,
) -> list[Row]:
    """Rows of some scenes under every scenario, one a method: the unit of work that goes to a worker.

    The bundle is loaded once for all of them, onto `device`; metrics are a CPU's work. `read` fetches
    sources by URI; `methods` replaces the bundle and the baselines. Raises ValueError, naming scene and
    method, for a fused picture that cannot be measured.
    """
    methods = methods_of(measurement, device) if methods is None else methods
    rows = []
    protocols = {
        scenario.name: protocol_of(scenario, measurement.protocol)
        for scenario in measurement.scenarios
    }
    with fetched_scenes(scenes, read) as here:
        for picture in _fused_pictures(here, measurement, methods):
            vi, ir = to_tensor(picture.vi), to_tensor(picture.ir)
            try:
                values = measure(picture.fused, vi, ir, measurement.metrics)
            except ValueError as error:
                raise ValueError(f"{picture.source}: {error}") from error
            measured = {name: float(value) for name, value in values.items()}
            protocol = protocols[picture.head["scenario"]]
            rows.append(picture.head | {"protocol": protocol} | measured)
    return rows


def _fused_pictures(
    scenes: Sequence[Scene], measurement: Measurement, methods: Mapping[str, Fuser]
) -> Iterator[FusedPicture]:
    """Every picture to measure, made when it is asked for."""
    seed, hint_names = measurement.seed, measurement.bundle.system.hint_names
    ours = (
        fuse_scene(scene, scenario, methods, seed=seed, hint_names=hint_names)
        for scene in scenes
        for scenario in measurement.scenarios
    )
    others = measurement.folders if CLEAN_SCENARIO in measurement.scenarios else {}
    theirs = (_picture_of(scene, *other) for scene in scenes for other in others.items())
    return chain(chain.from_iterable(ours), theirs)


def fuse_scene(
    scene: Scene,
    scenario: Scenario,
    methods: Mapping[str, Fuser],
    *,
    seed: int,
    hint_names: Sequence[str] = (),
) -> Iterator[FusedPicture]:
    """Fuse a scene under a scenario by every method.

    Methods are given the named hints from the scene's degradation record; baselines read none.
    """
    vi, ir = load_pair(scene)
    degraded = degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)
    hints = hints_of(hint_names, vi=degraded.vi_chain, ir=degraded.ir_chain)
    for name, fuse in methods.items():
        vi_lq, ir_lq = to_tensor(degraded.vi), to_tensor(degraded.ir)
        with torch.inference_mode():
            start = time.perf_counter()
            # On the CPU: the copy waits for the device and so belongs to the time.
            fused = fuse(vi_lq, ir_lq, hints).fused.to("cpu", torch.float32)  # B 3 H W
            seconds = time.perf_counter() - start
        head = row_head(scene, scenario, name, seconds)
        source = f"{scene.id}, {scenario.name}, method {name!r}"
        yield FusedPicture(head, source, fused, vi, ir, degraded)


def steps_means(
    num_steps: int,
    scenes: Sequence[Scene],
    measurement: Measurement,
    read: Read = read_file,
    device: str = "cpu",
) -> dict[str, float]:
    """Mean of every metric with another number of sampling steps than the model was trained with.

    Raises ValueError for a model that does not sample.
    """
    bundle = measurement.bundle
    set_num_steps = bundle.system.set_num_steps
    if set_num_steps is None or bundle.system.num_steps(bundle.model) is None:
        raise ValueError(f"{bundle.source}: this model does not sample in steps; unset steps")
    fuser = bundle.fuser()
    set_num_steps(fuser, num_steps)
    alone = measurement.model_copy(update={"folders": {}})
    methods = {MODEL: OnDevice(fuser, use_device(device))}
    rows = evaluate_scenes(scenes, alone, read, methods=methods)
    # Without seconds: tasks run beside each other. They come back in any order.
    means = {name: float(np.mean([row[name] for row in rows])) for name in measurement.metrics}
    return {"num_steps": float(num_steps)} | means


def make_example(
    scene: Scene,
    scenario: Scenario,
    methods: Mapping[str, Fuser],
    *,
    seed: int,
    hint_names: Sequence[str] = (),
) -> Example:
    """Return the pictures of `fuse_scene` with the same arguments."""
    pictures = [*fuse_scene(scene, scenario, methods, seed=seed, hint_names=hint_names)]
    fused = {picture.head["method"]: to_uint8(picture.fused) for picture in pictures}
    *_, vi, ir, degraded = pictures[0]
    return Example(scene.id, scenario.name, vi, ir, degraded.vi, degraded.ir, fused)


def metrics_for(scenes: Sequence[Scene]) -> tuple[str, ...]:
    """The default metrics that even the smallest of the scenes is large enough for."""
    height, width = min(s.height for s in scenes), min(s.width for s in scenes)
    return measurable(height, width, EVALUATED)


def choose_scenes(scenes: Sequence[Scene], count: int | None) -> tuple[Scene, ...]:
    """The first `count` scenes (None: all), as many of each data set as there are, in their order."""
    turns: dict[str, int] = defaultdict(int)
    places = []
    for place, scene in enumerate(scenes):
        places.append((turns[scene.dataset], place))
        turns[scene.dataset] += 1
    return tuple(scenes[place] for place in sorted(place for _, place in sorted(places)[:count]))


def check_pictures(name: str, folder: Path, scenes: Sequence[Scene]) -> None:
    """Raise ValueError unless a folder of fused pictures has one for every scene, each its own."""
    files = pictures_by_stem(folder)
    missing = [scene.id for scene in scenes if _stem(scene, files) is None]
    if missing:
        raise ValueError(
            f"--method {name}: {folder} has no picture for {len(missing)} of {len(scenes)} scenes, "
            f"the first is {missing[0]}; name each as its visible source or as its scene"
        )
    taken: dict[str, str] = {}
    for scene in scenes:
        stem = _stem(scene, files)
        assert stem is not None
        first = taken.setdefault(stem, scene.id)
        if first != scene.id:
            raise ValueError(
                f"--method {name}: {files[stem]} would be the picture of both {first} and {scene.id}; "
                "name each picture as its scene"
            )


def _stem(scene: Scene, files: Mapping[str, Path]) -> str | None:
    # Sources of two data sets may have one name, scenes have not.
    names = (scene.id, same_name(Path(scene.source("vi")[0]).stem))
    return next((name for name in names if name in files), None)


def _picture_of(scene: Scene, method: str, folder: Path) -> FusedPicture:
    """Another method's picture of a clean pair, from its folder."""
    files = pictures_by_stem(folder)
    stem = _stem(scene, files)
    assert stem is not None, "check_pictures finds it first"
    vi, ir = load_pair(scene)
    # How long another method took is not known here.
    head = row_head(scene, CLEAN_SCENARIO, method, math.nan)
    fused, clean = to_tensor(read_picture(files[stem])), Degraded(vi, ir, (), ())
    return FusedPicture(head, str(files[stem]), fused, vi, ir, clean)
