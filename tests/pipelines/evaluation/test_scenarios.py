import albumentations as A
import numpy as np
import pytest

from degradations.catalogue import ViRanges, names
from degradations.own import OwnTransforms
from pipelines.evaluation.scenarios import (
    CLEAN_SCENARIO,
    SCENARIOS,
    SEVERITIES,
    Scenario,
    degrade,
    find_scenario,
    protocol_of,
)


def pair(height: int = 32, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    vi = rng.integers(40, 200, (height, width, 3), dtype=np.uint8)
    return vi, rng.integers(40, 200, (height, width, 1), dtype=np.uint8)


def test_names_are_unique_and_found() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(find_scenario(scenario.name) is scenario for scenario in SCENARIOS)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'LL_SN'.*clean.*low_light\+stripe_noise"):
        find_scenario("LL_SN")


def test_the_papers_four_mixtures_are_there() -> None:
    mixed = {s.name for s in SCENARIOS if s.vi in [("low_light",), ("rain",)] and s.ir}
    assert mixed == {
        f"{vi}+{ir}" for vi in ("low_light", "rain") for ir in ("low_contrast", "stripe_noise")
    }


def test_every_degradation_of_the_catalogue_is_measured_alone() -> None:
    assert {s.vi for s in SCENARIOS if not s.ir} == {(), *((name,) for name in names("vi"))}
    assert {s.ir for s in SCENARIOS if not s.vi} == {(), *((name,) for name in names("ir"))}


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


def test_rows_of_a_name_with_another_meaning_have_another_protocol() -> None:
    mine, other = (Scenario(name="mine", vi=(name,)) for name in ("blur", "rain"))
    assert (
        protocol_of(find_scenario("vi_blur@weak"), "p") == protocol_of(CLEAN_SCENARIO, "p") == "p"
    )
    assert len({"p", *(protocol_of(one, "p") for one in (mine, other))}) == 3
    assert protocol_of(mine, "p") == protocol_of(mine.model_copy(), "p") != protocol_of(mine, "q")


def test_single_degradations_have_three_severities() -> None:
    assert len(SEVERITIES) == 27
    assert all(find_scenario(scenario.name) is scenario for scenario in SEVERITIES)
