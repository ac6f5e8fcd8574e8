import math
import random
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.evaluation.summaries import OVERALL
from pipelines.promotion.gate import Comparison, GateConfig, Verdict, judge, judge_first

Row = dict[str, Any]
SCENARIOS = ("clean", "vi_rain")
LEVEL = {"VIF": 0.6, "Qabf": 0.4, "MI": 3.0, "SSIM": 0.7}


def make_rows(
    method: str, *, factor: float = 1.0, scenario_factor: dict[str, float] | None = None
) -> list[Row]:
    """Twelve scenes of unequal difficulty under two scenarios; `factor` scales every metric."""
    rows = []
    for i in range(12):
        for scenario in SCENARIOS:
            scale = (0.7 + 0.05 * i) * factor * (scenario_factor or {}).get(scenario, 1.0)
            row = {"scene": f"s{i}", "scenario": scenario, "method": method, "reference": "hq"}
            row |= {"metric_version": "1", "width": 64, "height": 48}
            rows.append(row | {name: level * scale for name, level in LEVEL.items()})
    return rows


def comparison(verdict: Verdict, scenario: str, metric: str) -> Comparison:
    (found,) = (c for c in verdict.comparisons if (c.scenario, c.metric) == (scenario, metric))
    return found


CHAMPION = make_rows("champion")
CONFIG = GateConfig()


def test_an_equal_model_passes() -> None:
    verdict = judge(make_rows("new"), CHAMPION, CONFIG)
    assert verdict.passed
    assert verdict.reasons == ()
    assert {item.outcome for item in verdict.comparisons} == {"equal"}
    assert len(verdict.comparisons) == (len(SCENARIOS) + 1) * len(CONFIG.metrics)


def test_a_better_model_passes_and_is_seen_to_be_better() -> None:
    verdict = judge(make_rows("new", factor=1.05), CHAMPION, CONFIG)
    assert verdict.passed
    item = comparison(verdict, OVERALL, "VIF")
    assert item.outcome == "better"
    assert item.change == pytest.approx(0.05)
    assert 0 < item.low <= item.change <= item.high
    assert item.num_scenes == 12


def test_a_regression_in_one_scenario_is_refused_although_the_mean_gains() -> None:
    challenger = make_rows("new", scenario_factor={"clean": 1.2, "vi_rain": 0.96})
    verdict = judge(challenger, CHAMPION, CONFIG)
    assert not verdict.passed
    assert comparison(verdict, OVERALL, "VIF").outcome == "better"
    assert comparison(verdict, "vi_rain", "VIF").outcome == "worse"
    assert len(verdict.reasons) == len(CONFIG.metrics)
    assert "VIF under vi_rain fell from 0.5850 to 0.5616 (-4.0%" in verdict.reasons[0]
    assert "12 scenes" in verdict.reasons[0]
    assert "2.0% is tolerated" in verdict.reasons[0]


def test_a_regression_within_tolerance_passes() -> None:
    challenger = make_rows("new", scenario_factor={"clean": 1.02, "vi_rain": 0.985})
    assert judge(challenger, CHAMPION, CONFIG).passed
    strict = GateConfig(tolerance=0.01)
    assert not judge(challenger, CHAMPION, strict).passed


def test_a_small_loss_everywhere_is_refused_by_the_overall_tolerance() -> None:
    verdict = judge(make_rows("new", factor=0.985), CHAMPION, CONFIG)
    assert not verdict.passed
    assert all("over all scenarios" in reason for reason in verdict.reasons)


def test_noise_beyond_tolerance_is_uncertain_and_passes() -> None:
    challenger = make_rows("new")
    for i, row in enumerate(challenger):
        if row["scenario"] == "vi_rain":
            row["MI"] *= 1 + (0.30 if i // 2 % 2 else -0.38)
    verdict = judge(challenger, CHAMPION, GateConfig(overall_tolerance=0.1))
    item = comparison(verdict, "vi_rain", "MI")
    assert item.change < -0.02
    assert item.high > 0
    assert item.outcome == "uncertain"
    assert verdict.passed


def test_a_loss_beyond_the_hard_limit_is_refused_even_if_noisy() -> None:
    challenger = make_rows("new")
    for row in challenger:
        if row["scenario"] == "vi_rain":
            row["MI"] *= 4.0 if row["scene"] == "s0" else 0.5
    verdict = judge(challenger, CHAMPION, CONFIG)
    item = comparison(verdict, "vi_rain", "MI")
    assert item.change < -0.10
    assert item.high > 0
    assert item.outcome == "worse"
    assert any("hard limit of 10%" in reason for reason in verdict.reasons)


def test_order_of_rows_changes_nothing() -> None:
    challenger = make_rows("new", scenario_factor={"clean": 1.01, "vi_rain": 0.97})
    shuffled = random.Random(3).sample(challenger, len(challenger))
    assert judge(shuffled, CHAMPION[::-1], CONFIG) == judge(challenger, CHAMPION, CONFIG)


def test_overall_resamples_scenes_not_rows() -> None:
    challenger = make_rows("new")
    for i, row in enumerate(challenger):
        row["VIF"] *= 1 + 0.02 * (i // 2 - 5)  # the same change in both scenarios of a scene
    verdict = judge(challenger, CHAMPION, CONFIG)
    overall, alone = (comparison(verdict, name, "VIF") for name in (OVERALL, "clean"))
    assert overall.num_scenes == 12
    assert overall.high - overall.low == pytest.approx(alone.high - alone.low, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric_version": "2"}, "metric_version differs (challenger '2', reference '1')"),
        ({"reference": "lq"}, "reference differs (challenger 'lq', reference 'hq')"),
        ({"width": 32}, "width differs (challenger 32, reference 64)"),
        ({"VIF": math.nan}, "VIF of the challenger is missing or not finite for s1/clean"),
        ({"SSIM": None}, "SSIM of the challenger is missing or not finite for s1/clean"),
        ({"scene": "s0"}, "more than one row for s0/clean"),
        ({"scene": "new"}, "no partner in those of the reference: new/clean"),
        ({"method": "third"}, "mix methods new, third"),
    ],
)
def test_rows_that_do_not_pair_refuse_by_name(change: Row, message: str) -> None:
    challenger = make_rows("new", factor=1.5)
    challenger[2] = challenger[2] | change
    verdict = judge(challenger, CHAMPION, CONFIG)
    assert not verdict.passed
    assert verdict.comparisons == ()
    assert any(message in reason for reason in verdict.reasons), verdict.reasons


def test_missing_scenes_and_scenarios_refuse_on_both_sides() -> None:
    fewer = [row for row in make_rows("new", factor=1.5) if row["scenario"] == "clean"]
    (reason,) = judge(fewer, CHAMPION, CONFIG).reasons
    assert "12 of 24 rows of the reference have no partner in those of the challenger" in reason
    assert "s0/vi_rain" in reason
    assert "and 9 more" in reason
    (reason,) = judge(make_rows("new", factor=1.5), fewer, CONFIG).reasons
    assert "12 of 24 rows of the challenger have no partner in those of the reference" in reason


def test_no_rows_and_too_few_scenes_refuse() -> None:
    assert "no evaluation rows" in judge([], CHAMPION, CONFIG).reasons[0]
    two = [row for row in make_rows("new", factor=1.5) if row["scene"] in ("s0", "s1")]
    champion = [row for row in CHAMPION if row["scene"] in ("s0", "s1")]
    (reason,) = judge(two, champion, CONFIG).reasons
    assert "clean (2), vi_rain (2)" in reason
    assert judge(two, champion, GateConfig(min_scenes=2)).passed


def test_a_first_version_has_to_be_better_on_the_mean() -> None:
    baseline = make_rows("source_average")
    assert not judge_first(make_rows("new"), baseline, CONFIG).passed
    mixed = make_rows("new", scenario_factor={"clean": 0.9, "vi_rain": 1.3})
    verdict = judge_first(mixed, baseline, CONFIG)
    assert verdict.passed
    assert comparison(verdict, "clean", "VIF").outcome == "worse"


def test_a_first_version_needs_every_metric_of_the_set() -> None:
    challenger = make_rows("new", factor=1.1)
    for row in challenger:
        row["Qabf"] /= 1.1
    baseline = make_rows("source_average")
    (reason,) = judge_first(challenger, baseline, CONFIG).reasons
    assert reason.startswith("Qabf over all scenarios")
    assert "source average" in reason
    assert judge_first(challenger, baseline, GateConfig(first_metrics=("VIF",))).passed


def test_a_first_version_may_not_buy_detail_with_structure() -> None:
    challenger = make_rows("new", factor=1.1)
    for row in challenger:
        row["SSIM"] *= 0.94 / 1.1
    (reason,) = judge_first(challenger, make_rows("source_average"), CONFIG).reasons
    assert reason.startswith("SSIM over all scenarios fell")
    assert "(-6.0%" in reason


def test_the_verdict_survives_json() -> None:
    verdict = judge(make_rows("new", factor=0.9), CHAMPION, CONFIG)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


@pytest.mark.parametrize("wrong", [{"metrics": ("VISION",)}, {"metrics": ()}, {"tolerence": 0.1}])
def test_a_config_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateConfig(**wrong)
