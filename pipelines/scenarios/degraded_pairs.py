"""The degraded pair of a scene under a scenario: drawn, or as a camera captured it.

Legend: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from degradations.catalogue import Modality
from degradations.chain import Applied, apply_and_record, draw_chain
from pipelines.scenarios.table import Scenario, ranges_of
from pipelines.sources.scenes import Read, Scene, load_native, load_pair, read_file
from pipelines.store.seeding import rng_at


class Degraded(NamedTuple):
    """A degraded pair, uint8 (VI H×W×3, IR H×W×1), and the record of what each camera suffers."""

    vi: np.ndarray
    ir: np.ndarray
    vi_chain: tuple[Applied, ...]
    ir_chain: tuple[Applied, ...]


def degrade(
    vi: np.ndarray, ir: np.ndarray, scenario: Scenario, *, seed: int, scene_key: str
) -> Degraded:
    """Degrade a pair (uint8, VI H×W×3 and IR H×W×1); a clean camera comes back as an equal copy.

    The pixels depend on (seed, scene_key, scenario, camera) alone: neither order, nor worker, nor
    what befalls the other camera changes them.
    """
    assert not scenario.captured, "its pictures are files: degraded_pair reads them"
    cameras: tuple[tuple[Modality, np.ndarray, tuple[str, ...]], ...] = (
        ("vi", vi, scenario.vi),
        ("ir", ir, scenario.ir),
    )
    degraded = []
    for camera, image, names in cameras:
        rng = rng_at(seed, scene_key, scenario.name, camera)
        ranges, own = ranges_of(scenario, camera), scenario.own.of(camera)
        drawn = draw_chain(camera, names, rng, ranges=ranges, own=own)
        degraded.append(apply_and_record(image, camera, drawn))
    (vi_lq, vi_chain), (ir_lq, ir_chain) = degraded
    return Degraded(vi_lq, ir_lq, vi_chain, ir_chain)


class Case(NamedTuple):
    """A scene under a scenario: what is measured, kept and resumed at a time."""

    scene: Scene
    scenario: Scenario


class CleanAndDegraded(NamedTuple):
    """A scene's pair, uint8 VI H×W×3 and IR H×W×1, and what it becomes under a scenario."""

    vi: np.ndarray
    ir: np.ndarray
    degraded: Degraded


def cases_of(scenes: Sequence[Scene], scenarios: Sequence[Scenario]) -> list[Case]:
    """Every scene under every scenario that it can be put under, scene after scene.

    A captured scenario is for scenes that have its native files.
    """
    return [
        Case(scene, scenario)
        for scene in scenes
        for scenario in scenarios
        if {native.member for native in scene.natives}.issuperset(scenario.natives)
    ]


def degraded_pair(case: Case, *, seed: int, read: Read = read_file) -> CleanAndDegraded:
    """Load a scene and degrade it, or read the native files of a captured scenario.

    Raises ValueError, naming the file, for one that is gone or was changed since the scan.
    """
    scene, scenario = case
    vi, ir = load_pair(scene, read)
    if not scenario.captured:
        degraded = degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)
        return CleanAndDegraded(vi, ir, degraded)
    there = {member[:2]: load_native(scene, member, read) for member in scenario.natives}
    chains = (
        [Applied(name=name, params={}) for name in each] for each in (scenario.vi, scenario.ir)
    )
    captured = Degraded(there.get("vi", vi), there.get("ir", ir), *map(tuple, chains))
    return CleanAndDegraded(vi, ir, captured)
