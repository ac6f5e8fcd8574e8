"""Degraded pairs exported as files for other programs.

An export is a folder:

    SCENARIO/vi/SCENE.png       the degraded pair, without loss
    SCENARIO/ir/SCENE.png
    SCENARIO/drawn/SCENE.json   what was drawn, and a digest of the pixels
    manifest.json               all of that, the seed, the scenes; written last

Pictures that a program makes of it are taken back with a copy of the manifest (`given_pictures`), whose
digests say whether they were made of the pairs that are measured.

Legend: C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from degradations.catalogue import Modality, find
from degradations.chain import Applied
from pipelines.scenarios.degraded_pairs import Case, Degraded, degraded_pair
from pipelines.scenarios.table import Scenario, definition_of
from pipelines.sources.pictures import encode_png
from pipelines.sources.scenes import Read, read_file
from pipelines.store.files import write_whole

MANIFEST = "manifest.json"


class ExportedPair(BaseModel):
    """What each camera suffers in an exported pair, and a digest of its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vi: tuple[Applied, ...]
    ir: tuple[Applied, ...]
    pixels: str


class ExportedScene(BaseModel):
    """A scene of an export; `digest` is that of its name and files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    width: int
    height: int


class PairFiles(NamedTuple):
    """An exported pair as PNG, and what was drawn for it."""

    case: Case
    vi: bytes
    ir: bytes
    drawn: ExportedPair


class Manifest(BaseModel):
    """What an export holds: definitions of scenarios, scenes, and pairs by scenario and scene."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    scenarios: dict[str, list[Any]]
    scenes: dict[str, ExportedScene]
    pairs: dict[str, dict[str, ExportedPair]] = {}


def pixels_digest(degraded: Degraded) -> str:
    """Digest of the pixels of a degraded pair; which PNG they are stored as does not matter."""
    digest = hashlib.sha256(repr(degraded.vi.shape).encode())
    for image in (degraded.vi, degraded.ir):
        digest.update(image.tobytes())
    return digest.hexdigest()


def plan_export(cases: Sequence[Case], *, seed: int) -> Manifest:
    """The manifest of an export before its pairs are made."""
    scenes = {
        scene.id: ExportedScene(digest=scene.digest, width=scene.width, height=scene.height)
        for scene, _ in cases
    }
    definitions = {case.scenario.name: _definition(case.scenario) for case in cases}
    return Manifest(seed=seed, scenarios=definitions, scenes=scenes)


def left_to_export(cases: Sequence[Case], folder: Path, plan: Manifest) -> list[Case]:
    """The cases that an export's folder lacks.

    Raises ValueError for a folder that holds an export of other pairs.
    """
    begun = folder / "plan.json"
    if not begun.exists():
        write_whole(begun, plan.model_dump_json(indent=1).encode())
    elif Manifest.model_validate_json(begun.read_bytes()) != plan:
        raise ValueError(
            f"--out {folder}: holds pairs of other scenes, scenarios or seeds; choose another folder"
        )
    return [case for case in cases if not _drawn(folder, case).is_file()]


def make_pair(case: Case, seed: int, read: Read = read_file) -> PairFiles:
    """The files of an exported pair, made on a worker."""
    pair = degraded_pair(case, seed=seed, read=read)
    vi, ir, *chains = pair.degraded
    drawn = ExportedPair(vi=chains[0], ir=chains[1], pixels=pixels_digest(pair.degraded))
    return PairFiles(case, encode_png(vi), encode_png(ir), drawn)


def write_pair(files: PairFiles, folder: Path) -> None:
    """Write a pair; what was drawn comes last, its presence means that the pair is whole."""
    for camera, data in (("vi", files.vi), ("ir", files.ir)):
        write_whole(picture_path(folder, files.case, camera), data)
    write_whole(_drawn(folder, files.case), files.drawn.model_dump_json(indent=1).encode())


def picture_path(folder: Path, case: Case, camera: str) -> Path:
    """Where a camera's picture of a case lies in an export."""
    return folder / case.scenario.name / camera / f"{case.scene.id}.png"


def finish_export(cases: Sequence[Case], folder: Path, plan: Manifest) -> None:
    """Write the manifest of an export whose pairs are all there."""
    pairs: dict[str, dict[str, ExportedPair]] = {name: {} for name in plan.scenarios}
    for case in cases:
        drawn = ExportedPair.model_validate_json(_drawn(folder, case).read_bytes())
        pairs[case.scenario.name][case.scene.id] = drawn
    whole = plan.model_copy(update={"pairs": pairs})
    write_whole(folder / MANIFEST, whole.model_dump_json(indent=1).encode())


def read_manifest(path: Path) -> Manifest:
    """Read an export's manifest. Raises ValueError for what is none."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not the manifest of jobs.evaluate export ({error})") from error


def _definition(scenario: Scenario) -> list[Any]:
    """What a scenario does, and the versions of the kernels that do it."""
    both: tuple[tuple[Modality, tuple[str, ...]], ...] = (("vi", scenario.vi), ("ir", scenario.ir))
    kernels = {
        f"{camera}_{name}": find(camera, name).version
        for camera, names in both
        for name in names
        if name not in scenario.own.of(camera)
    }
    return [*definition_of(scenario), kernels]


def _drawn(folder: Path, case: Case) -> Path:
    return folder / case.scenario.name / "drawn" / f"{case.scene.id}.json"
