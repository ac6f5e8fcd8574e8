"""Degraded pairs: exported as files, and captured ones that the scene has as files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.evaluation.degraded_pairs import (
    MANIFEST,
    Case,
    cases_of,
    degraded_pair,
    finish_export,
    left_to_export,
    make_pair,
    pixels_digest,
    plan_export,
    read_manifest,
    write_pair,
)
from pipelines.evaluation.scenarios import CAPTURED, CLEAN_SCENARIO, Scenario, find_scenario
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene

SIZE = (24, 32)
SCENARIOS = [CLEAN_SCENARIO, find_scenario("low_light+stripe_noise")]


def picture(seed: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    """Two scenes in DSPFusion's layout; the first has captured pictures of both cameras."""
    root = tmp_path / "hybrid" / "val"
    for seed, name in enumerate(("a", "b")):
        for camera, channels in (("VI", 3), ("IR", 1)):
            write(root / f"{camera}_enhanced" / f"{name}.png", picture(seed, channels))
            write(root / camera / f"{name}_Norm.png", picture(seed, channels))
    write(root / "VI" / "a_LL.png", picture(10, 3))
    write(root / "IR" / "a_LC.png", picture(11, 1))
    write(root / "VI" / "b_Rain.png", picture(12, 3))
    return list(scan(tmp_path / "hybrid", dataset="hybrid").scenes)


def export(cases: list[Case], folder: Path, seed: int = 4) -> None:
    plan = plan_export(cases, seed=seed)
    for case in left_to_export(cases, folder, plan):
        write_pair(make_pair(case, seed), folder)
    finish_export(cases, folder, plan)


def test_captured_pictures_are_what_a_method_is_given(scenes: list[Scene]) -> None:
    cases = {case.scenario.name: case for case in cases_of(scenes, CAPTURED)}
    assert [*cases] == [
        "captured_vi_low_light",
        "captured_ir_low_contrast",
        "captured_low_light+low_contrast",
    ]
    both = degraded_pair(cases["captured_low_light+low_contrast"], seed=0)
    assert np.array_equal(both.degraded.vi, picture(10, 3)[:, :, ::-1])
    assert np.array_equal(both.degraded.ir, picture(11, 1))
    assert np.array_equal(both.vi, picture(0, 3)[:, :, ::-1])
    assert [applied.name for applied in both.degraded.vi_chain] == ["low_light"]
    one = degraded_pair(cases["captured_vi_low_light"], seed=0)
    assert np.array_equal(one.degraded.ir, picture(0, 1))


def test_what_a_program_made_is_not_captured(scenes: list[Scene]) -> None:
    made = [native.member for native in scenes[1].natives]
    assert "vi_rain" in made
    assert cases_of(scenes[1:], CAPTURED) == []
    with pytest.raises(ValueError, match="name what a camera suffers"):
        Scenario(name="none", captured=True)


def test_an_export_holds_the_pixels_that_are_measured(scenes: list[Scene], tmp_path: Path) -> None:
    cases = cases_of(scenes, SCENARIOS)
    export(cases, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / MANIFEST)
    assert manifest.seed == 4
    for case in cases:
        folder = tmp_path / "out" / case.scenario.name
        degraded = degraded_pair(case, seed=4).degraded
        vi, ir = (
            cv2.imread(str(folder / camera / f"{case.scene.id}.png"), cv2.IMREAD_UNCHANGED)
            for camera in ("vi", "ir")
        )
        assert np.array_equal(vi[:, :, ::-1], degraded.vi)
        assert np.array_equal(ir, degraded.ir[:, :, 0])
        record = manifest.pairs[case.scenario.name][case.scene.id]
        assert record.pixels == pixels_digest(degraded)
        assert record.vi == degraded.vi_chain


def test_an_export_goes_on_and_is_not_mixed_with_another(
    scenes: list[Scene], tmp_path: Path
) -> None:
    cases, out = cases_of(scenes, SCENARIOS), tmp_path / "out"
    plan = plan_export(cases, seed=4)
    write_pair(make_pair(left_to_export(cases, out, plan)[0], 4), out)
    assert left_to_export(cases, out, plan) == cases[1:]
    export(cases, out)
    whole = json.loads((out / MANIFEST).read_text())
    assert {name: len(pairs) for name, pairs in whole["pairs"].items()} == {
        "clean": 2,
        "low_light+stripe_noise": 2,
    }
    with pytest.raises(ValueError, match="choose another folder"):
        export(cases, out, seed=5)
    with pytest.raises(ValueError, match="choose another folder"):
        export(cases[:2], out)
