import pytest

from degradations.catalogue import names
from pipelines.scenarios.table import (
    CLEAN_SCENARIO,
    SCENARIOS,
    SEVERITIES,
    Scenario,
    find_scenario,
    protocol_of,
)


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
