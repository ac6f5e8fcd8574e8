"""Pictures that other programs made: another method's fused ones, or restored sources that we fuse.

A method's folder holds SCENARIO/NAME.png, a restorer's SCENARIO/vi/NAME.png and SCENARIO/ir/NAME.png, and
both a copy of the manifest of the export that they were made of. Fused pictures of the clean pairs alone
may lie in the folder itself, and need no manifest. NAME is the scene's, or its visible source's.

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pipelines.checks.damage import read_header
from pipelines.evaluation.baselines import BASELINES, RULES, Baseline
from pipelines.evaluation.exported_pairs import (
    MANIFEST,
    Manifest,
    pixels_digest,
    plan_export,
    read_manifest,
)
from pipelines.evaluation.method_folders import pictures_by_stem, read_picture, read_source
from pipelines.scenarios.degraded_pairs import Case, Degraded
from pipelines.scenarios.table import CLEAN_SCENARIO
from pipelines.sources.names import same_name
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file

Kind = Literal["method", "restorer"]
_OPTION: dict[Kind, str] = {"method": "--method", "restorer": "--restore"}
# By scenario and scene, the files by what they show: "fused", or "vi" and "ir".
Files = dict[str, dict[str, dict[str, Path]]]


class Given(BaseModel):
    """Pictures by another program; `pixels` are digests of the degraded pairs that they were made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    files: Files
    pixels: dict[str, dict[str, str]] = {}

    def methods(self, baselines: Sequence[Baseline]) -> tuple[str, ...]:
        """The methods that its pictures make rows of."""
        if self.kind == "method":
            return (self.name,)
        return tuple(f"{self.name}+{rule}" for rule in baselines if rule in RULES)

    def digests(self) -> list[str]:
        """Digests of all its files, in order."""
        return [
            sha256_of_file(path)
            for scenes in self.files.values()
            for files in scenes.values()
            for path in files.values()
        ]


class GivenPicture(NamedTuple):
    """A method's picture of a case, B×3×H×W or B×1×H×W, and the file or files it comes from."""

    method: str
    source: str
    fused: Tensor


def find_given(kind: Kind, name: str, folder: Path, cases: Sequence[Case], seed: int) -> Given:
    """Find a program's picture of every case. Raises ValueError, naming the first ones and what to do,
    where some are missing, have other sizes, or were made of other pairs.
    """
    asked = f"{_OPTION[kind]} {name}: {folder}"
    if not folder.is_dir():
        raise ValueError(f"{asked}: no such folder")
    scenes: dict[str, list[Scene]] = {}
    for scene, scenario in cases:
        scenes.setdefault(scenario.name, []).append(scene)
    if kind == "method" and not any((folder / scenario).is_dir() for scenario in scenes):
        return _clean_alone(asked, name, folder, scenes.get(CLEAN_SCENARIO.name, []))
    manifest = _manifest(asked, folder, cases, seed)
    cameras = _cameras(asked, folder, [*scenes]) if kind == "restorer" else (".",)
    _check_scenarios(asked, folder, [*scenes], cameras)
    files: Files = {scenario: {} for scenario in scenes}
    for camera, (of_scenario, there) in product(cameras, scenes.items()):
        for of_scene, path in _pictures(asked, folder / of_scenario / camera, there).items():
            shown = "fused" if camera == "." else camera
            files[of_scenario].setdefault(of_scene, {})[shown] = path
    pixels = {
        name: {scene: manifest.pairs[name][scene].pixels for scene in of_scenes}
        for name, of_scenes in files.items()
    }
    return Given(name=name, kind=kind, files=files, pixels=pixels)


def given_pictures(
    case: Case, degraded: Degraded, given: Sequence[Given], baselines: Sequence[Baseline]
) -> Iterator[GivenPicture]:
    """The pictures that other programs made of a degraded pair; restored ones are fused by our rules.

    Raises ValueError, naming the program, where it was given other pixels.
    """
    scene, scenario = case
    for other in given:
        files = other.files.get(scenario.name, {}).get(scene.id)
        if files is None:
            continue
        expected = other.pixels.get(scenario.name, {}).get(scene.id)
        if expected not in (None, pixels_digest(degraded)):
            raise ValueError(
                f"{_OPTION[other.kind]} {other.name}: {scene.id} under {scenario.name} was exported with "
                "other pixels than are measured now; export again, and make its pictures again"
            )
        if other.kind == "method":
            path = files["fused"]
            yield GivenPicture(other.name, str(path), to_tensor(read_picture(path)))
        else:
            yield from _fused_by_rules(other, files, degraded, baselines)


def _fused_by_rules(
    restorer: Given, files: Mapping[str, Path], degraded: Degraded, baselines: Sequence[Baseline]
) -> Iterator[GivenPicture]:
    vi = read_source(files["vi"], "vi", None) if "vi" in files else degraded.vi
    ir = read_source(files["ir"], "ir", None) if "ir" in files else degraded.ir
    pair = to_tensor(np.repeat(vi, 3, axis=2) if vi.shape[2] == 1 else vi), to_tensor(ir)
    source = " and ".join(map(str, files.values()))
    for method, rule in zip(
        restorer.methods(baselines), (name for name in baselines if name in RULES), strict=True
    ):
        with torch.inference_mode():
            yield GivenPicture(method, source, BASELINES[rule](*pair, {}).fused.float())


def _clean_alone(asked: str, name: str, folder: Path, clean: Sequence[Scene]) -> Given:
    """A folder of fused pictures without scenarios: they are of the clean pairs."""
    if not clean:
        raise ValueError(
            f"{asked}: its pictures show the clean pairs, and the recipe lacks 'clean'; put those of "
            "scenarios into folders of their names (python -m jobs.evaluate export makes the pairs)"
        )
    found = _pictures(asked, folder, clean)
    files = {scene: {"fused": path} for scene, path in found.items()}
    return Given(name=name, kind="method", files={CLEAN_SCENARIO.name: files})


def _cameras(asked: str, folder: Path, scenarios: Sequence[str]) -> tuple[str, ...]:
    """The cameras that a restorer has pictures of; the other's are fused as they are degraded."""
    cameras = tuple(
        camera
        for camera in ("vi", "ir")
        if any((folder / scenario / camera).is_dir() for scenario in scenarios)
    )
    if not cameras:
        raise ValueError(
            f"{asked}: has neither {scenarios[0]}/vi/ nor {scenarios[0]}/ir/; restored pictures lie as "
            "in the export: SCENARIO/vi/SCENE.png, SCENARIO/ir/SCENE.png"
        )
    return cameras


def _check_scenarios(
    asked: str, folder: Path, scenarios: Sequence[str], cameras: Sequence[str]
) -> None:
    """Raise ValueError, naming them, for scenarios that a folder has no pictures of."""
    wanted = [
        f"{scenario}/{camera}".removesuffix("/.") for scenario in scenarios for camera in cameras
    ]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        there = ",".join(name for name in scenarios if (folder / name).is_dir())
        raise ValueError(
            f"{asked}: lacks {len(missing)} of {len(wanted)} folders: {', '.join(missing)}; make their "
            f"pictures, or measure the scenarios that are whole: --set 'scenarios=[{there}]'"
        )


def _pictures(asked: str, folder: Path, scenes: Sequence[Scene]) -> dict[str, Path]:
    """The picture of every scene, by its id."""
    files = pictures_by_stem(folder)
    stems = {scene.id: _stem(scene, files) for scene in scenes}
    missing = [scene for scene, stem in stems.items() if stem is None]
    if missing:
        raise ValueError(
            f"{asked}: no picture for {len(missing)} of {len(scenes)} scenes in {folder}, the first is "
            f"{missing[0]}; name each as its scene or as its visible source"
        )
    found = {scene: files[stem] for scene, stem in stems.items() if stem is not None}
    _check_taken_once(asked, found)
    for scene in scenes:
        _check_size(asked, scene, found[scene.id])
    return found


def _check_taken_once(asked: str, found: Mapping[str, Path]) -> None:
    taken: dict[Path, str] = {}
    for scene, path in found.items():
        first = taken.setdefault(path, scene)
        if first != scene:
            raise ValueError(
                f"{asked}: {path.name} would be the picture of both {first} and {scene}; name each "
                "picture as its scene"
            )


def _check_size(asked: str, scene: Scene, path: Path) -> None:
    header = read_header(path.read_bytes(), str(path))
    if (header.width, header.height) != (scene.width, scene.height):
        raise ValueError(
            f"{asked}: {path} is {header.width}x{header.height}, and {scene.id} is "
            f"{scene.width}x{scene.height}; make pictures of the pairs' own size"
        )


def _manifest(asked: str, folder: Path, cases: Sequence[Case], seed: int) -> Manifest:
    """The manifest of the export that a folder's pictures were made of, if that was of these cases."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{asked}: lacks {MANIFEST}; copy that of the export which its pictures were made of, it says "
            "that they are of the pairs that are measured"
        )
    manifest, expected = read_manifest(path), plan_export(cases, seed=seed)
    if manifest.seed != seed:
        raise ValueError(
            f"{asked}: made of pairs of seed {manifest.seed}, this evaluation has seed {seed}; measure "
            f"with --set seed={manifest.seed}"
        )
    for name, definition in expected.scenarios.items():
        if manifest.scenarios.get(name) != definition:
            raise ValueError(
                f"{asked}: was exported with another {name!r} than is measured now; export again, and "
                "make its pictures again"
            )
    for scene, scenario in cases:
        same = manifest.scenes.get(scene.id) == expected.scenes[scene.id]
        if not same or scene.id not in manifest.pairs.get(scenario.name, {}):
            raise ValueError(
                f"{asked}: was exported with another scene {scene.id!r}, or without it; export again from "
                "this index, and make its pictures again"
            )
    return manifest


def _stem(scene: Scene, files: Mapping[str, Path]) -> str | None:
    # Sources of two data sets may have one name, scenes have not.
    names = (scene.id, same_name(Path(scene.source("vi")[0]).stem))
    return next((name for name in names if name in files), None)
