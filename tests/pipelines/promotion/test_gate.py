import math
import random
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.promotion.gate import (
    Comparison,
    GateConfig,
    Verdict,
    best_reference,
    judge,
    judge_first,
)
from pipelines.results.summaries import OVERALL

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
            row |= {"metric_version": "1", "protocol": "p", "width": 64, "height": 48}
            rows.append(row | {name: level * scale for name, level in LEVEL.items()})
    return rows


def comparison(verdict: Verdict, scenario: str, metric: str) -> Comparison:
    (found,) = (c for c in verdict.comparisons if (c.scenario, c.metric) == (scenario, metric))
    return found


CHAMPION = make_rows("champion")
CONFIG = GateConfig(min_scenes=12)


def strict(**changes: Any) -> GateConfig:
    return CONFIG.model_copy(update=changes)


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
    challenger = make_rows("new", scenario_factor={"clean": 1.2, "vi_rain": 0.86})
    verdict = judge(challenger, CHAMPION, CONFIG)
    assert not verdict.passed
    assert comparison(verdict, OVERALL, "VIF").outcome == "better"
    assert comparison(verdict, "vi_rain", "VIF").outcome == "worse"
    assert len(verdict.reasons) == len(CONFIG.metrics)
    assert "VIF under vi_rain fell from 0.5850 to 0.5031 (-14.0%" in verdict.reasons[0]
    assert "12 scenes" in verdict.reasons[0]
    assert "more than the 10% below the champion" in verdict.reasons[0]


def test_a_loss_within_the_margin_passes() -> None:
    challenger = make_rows("new", scenario_factor={"clean": 1.02, "vi_rain": 0.95})
    assert judge(challenger, CHAMPION, CONFIG).passed
    assert not judge(challenger, CHAMPION, strict(scenario_margin=0.03)).passed


def test_a_small_loss_everywhere_is_refused_by_the_overall_margin() -> None:
    verdict = judge(make_rows("new", factor=0.965), CHAMPION, CONFIG)
    assert not verdict.passed
    assert all("over all scenarios" in reason for reason in verdict.reasons)


def test_noise_that_does_not_exclude_the_margin_refuses_and_asks_for_scenes() -> None:
    challenger = make_rows("new")
    for i, row in enumerate(challenger):
        if row["scenario"] == "vi_rain":
            row["MI"] *= 1 + (0.30 if i // 2 % 2 else -0.30)
    verdict = judge(challenger, CHAMPION, strict(overall_margin=0.3))
    item = comparison(verdict, "vi_rain", "MI")
    assert item.bound < -0.10 < item.high
    assert item.outcome == "uncertain"
    (reason,) = verdict.reasons
    assert "a loss of 10% to the champion is not excluded" in reason
    assert "evaluate on more scenes" in reason


def test_the_best_of_the_champions_is_the_one_to_beat() -> None:
    rows = {"3": make_rows("m"), "1": make_rows("m", factor=0.98), "2": make_rows("m", factor=1.02)}
    assert best_reference(rows, "3", CONFIG.watched) == "2"
    assert best_reference({"3": rows["3"], "1": rows["1"]}, "3", CONFIG.watched) == "3"
    assert best_reference({"3": rows["3"], "1": rows["3"]}, "3", CONFIG.watched) == "3"


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
        ({"protocol": "q"}, "protocol differs (challenger 'q', reference 'p')"),
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
    assert judge(two, champion, strict(min_scenes=2)).passed


def test_a_first_version_has_to_be_better_on_the_mean() -> None:
    baseline = make_rows("source_average")
    assert not judge_first(make_rows("new"), baseline, CONFIG).passed
    mixed = make_rows("new", scenario_factor={"clean": 0.8, "vi_rain": 1.4})
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
    assert judge_first(challenger, baseline, strict(first_metrics=("VIF",))).passed


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
