"""The degraded pair: drawn by its address, or captured as a file of the scene."""

from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest

from degradations.catalogue import ViRanges
from degradations.own import OwnTransforms
from pipelines.scenarios.degraded_pairs import cases_of, degrade, degraded_pair
from pipelines.scenarios.table import (
    CAPTURED,
    CLEAN_SCENARIO,
    SCENARIOS,
    SEVERITIES,
    Scenario,
    find_scenario,
)
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene

SIZE = (24, 32)


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


def pair(height: int = 32, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    vi = rng.integers(40, 200, (height, width, 3), dtype=np.uint8)
    return vi, rng.integers(40, 200, (height, width, 1), dtype=np.uint8)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_degrades_exactly_the_cameras_it_names(scenario: Scenario) -> None:
    vi, ir = pair()
    before = vi.copy(), ir.copy()
    vi_lq, ir_lq, *_ = degrade(vi, ir, scenario, seed=1, scene_key="a")
    assert (vi_lq.shape, vi_lq.dtype, ir_lq.shape, ir_lq.dtype) == (
        vi.shape,
        vi.dtype,
        ir.shape,
        ir.dtype,
    )
    assert np.array_equal(vi_lq, vi) == (not scenario.vi)
    assert np.array_equal(ir_lq, ir) == (not scenario.ir)
    assert np.array_equal(vi, before[0])
    assert np.array_equal(ir, before[1])


def test_same_address_same_bytes_in_any_order() -> None:
    vi, ir = pair()
    forward = [degrade(vi, ir, s, seed=3, scene_key="a") for s in SCENARIOS]
    backward = [degrade(vi, ir, s, seed=3, scene_key="a") for s in reversed(SCENARIOS)]
    for one, two in zip(forward, reversed(backward), strict=True):
        assert one[0].tobytes() == two[0].tobytes()
        assert one[1].tobytes() == two[1].tobytes()


def test_seed_scene_and_scenario_each_change_the_draw() -> None:
    vi, ir = pair()
    noise = find_scenario("vi_random_noise")
    renamed = Scenario(name="other", vi=noise.vi)
    draws = [
        degrade(vi, ir, noise, seed=3, scene_key="a"),
        degrade(vi, ir, noise, seed=4, scene_key="a"),
        degrade(vi, ir, noise, seed=3, scene_key="b"),
        degrade(vi, ir, renamed, seed=3, scene_key="a"),
    ]
    assert len({vi_lq.tobytes() for vi_lq, *_ in draws}) == len(draws)


def test_the_clean_copy_does_not_share_memory() -> None:
    vi, ir = pair()
    vi_lq, ir_lq, *_ = degrade(vi, ir, CLEAN_SCENARIO, seed=0, scene_key="a")
    assert not np.shares_memory(vi_lq, vi)
    assert not np.shares_memory(ir_lq, ir)


def test_a_severity_fixes_what_a_scenario_draws() -> None:
    vi, ir = pair()
    errors = []
    for severity in ("weak", "medium", "strong"):
        degraded = [
            degrade(vi, ir, find_scenario(f"vi_blur@{severity}"), seed=seed, scene_key="a")[0]
            for seed in (1, 2)
        ]
        assert np.array_equal(*degraded)
        errors.append(np.abs(degraded[0].astype(float) - vi).mean())
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", sorted({s.name.partition("@")[0] for s in SEVERITIES}))
def test_stronger_is_farther_from_the_clean_pair(name: str) -> None:
    vi, ir = pair(64, 64)
    errors = []
    for severity in ("weak", "medium", "strong"):
        scenario = find_scenario(f"{name}@{severity}")
        pictures = degrade(vi, ir, scenario, seed=1, scene_key="a")
        both = zip(pictures[:2], (vi, ir), strict=True)
        errors.append(sum(np.abs(x.astype(float) - y).mean() for x, y in both))
    assert errors[0] < errors[2]


def test_a_scenario_of_ones_own() -> None:
    motion = A.to_dict(A.MotionBlur(blur_limit=(7, 15), p=1))
    scenario = Scenario(
        name="shaken",
        vi=("motion", "gaussian_noise"),
        own=OwnTransforms(vi={"motion": motion}),
        vi_ranges=ViRanges(gaussian_noise={"sigma_range_level": (3, 3)}),
    )
    vi, ir = pair()
    first, again, other = (
        degrade(vi, ir, one, seed=seed, scene_key="a")
        for one, seed in (
            (scenario, 1),
            (Scenario.model_validate_json(scenario.model_dump_json()), 1),
            (scenario, 2),
        )
    )
    assert np.array_equal(first.vi, again.vi)
    assert not np.array_equal(first.vi, other.vi)
    assert first.vi_chain[0].params["drawn"][0]["name"] == "MotionBlur"
    assert first.vi_chain[1].params["sigma_level"] == 3
    assert np.array_equal(first.ir, ir)
    assert not scenario.is_linear
    with pytest.raises(ValueError, match="no degradation 'motion'"):
        Scenario(name="shaken", ir=("motion",), own=scenario.own)
