"""Degraded pairs as files for other programs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.evaluation.exported_pairs import (
    MANIFEST,
    finish_export,
    left_to_export,
    make_pair,
    pixels_digest,
    plan_export,
    read_manifest,
    write_pair,
)
from pipelines.scenarios.degraded_pairs import Case, cases_of, degraded_pair
from pipelines.scenarios.table import CLEAN_SCENARIO, find_scenario
from pipelines.sources.scenes import Scene

SCENARIOS = [CLEAN_SCENARIO, find_scenario("low_light+stripe_noise")]


def export(cases: list[Case], folder: Path, seed: int = 4) -> None:
    plan = plan_export(cases, seed=seed)
    for case in left_to_export(cases, folder, plan):
        write_pair(make_pair(case, seed), folder)
    finish_export(cases, folder, plan)


def test_an_export_holds_the_pixels_that_are_measured(scenes: list[Scene], tmp_path: Path) -> None:
    cases = cases_of(scenes[:2], SCENARIOS)
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
    cases, out = cases_of(scenes[:2], SCENARIOS), tmp_path / "out"
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
