import pytest

from models.metrics import METRIC_VERSION
from pipelines.results.rows import Row
from pipelines.results.summaries import (
    OVERALL,
    by_dataset,
    format_datasets,
    format_table,
    summarise,
    worst_cases,
)


def row(scene: str, scenario: str, method: str, **metrics: float) -> Row:
    head = {"scene": scene, "scenario": scenario, "method": method}
    return head | {"metric_version": METRIC_VERSION, "reference": "hq"} | metrics


def test_summary_weighs_scenarios_equally() -> None:
    rows = [
        row("a", "vi_rain", "m", VIF=0.8),
        row("a", "clean", "m", VIF=0.2),
        row("b", "clean", "m", VIF=0.4),
    ]
    summary = summarise(rows)
    assert summary.scenarios == ("clean", "vi_rain")
    assert summary.means["clean", "m", "VIF"] == pytest.approx(0.3)
    assert summary.means[OVERALL, "m", "VIF"] == pytest.approx(0.55)
    assert summary.num_scenes == {"clean": 2, "vi_rain": 1}
    assert summary.best("clean", "VIF") is None


def test_summary_names_the_leader_and_no_one_on_a_tie() -> None:
    rows = [
        row("a", "clean", "m", VIF=0.2, SSIM=0.5),
        row("a", "clean", "n", VIF=0.3, SSIM=0.5),
    ]
    summary = summarise(rows)
    assert summary.best("clean", "VIF") == "n"
    assert summary.best("clean", "SSIM") is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row("a", "clean", "m", VIF=1), row("a", "clean", "m", VIF=2)], "repeated"),
        ([row("a", "clean", "m", VIF=1), row("b", "clean", "n", VIF=2)], "'m' was not measured"),
        (
            [row("a", "clean", "m", VIF=1), row("b", "clean", "m", VIF=1) | {"reference": "lq"}],
            "mix",
        ),
    ],
)
def test_means_that_would_not_compare_are_refused(rows: list[Row], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(rows)


def test_table_aligns_model_against_baseline() -> None:
    rows = [
        row("a", "clean", "model", VIF=0.7, Qabf=0.5),
        row("a", "clean", "base", VIF=0.6, Qabf=0.55),
        row("a", "low_light+stripe_noise", "model", VIF=0.5, Qabf=0.4),
        row("a", "low_light+stripe_noise", "base", VIF=0.2, Qabf=0.4),
    ]
    lines = format_table(summarise(rows), model="model", baseline="base", metrics=("VIF", "Qabf"))
    assert "model" in lines[0]
    assert "base" in lines[0]
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[3].split() == ["clean", "1", "0.7000", "(+0.1000)", "0.5000", "(-0.0500)"]
    assert lines[-1].split() == [OVERALL, "0.6000", "(+0.2000)", "0.4500", "(-0.0250)"]
    with pytest.raises(ValueError, match="'other'; known: model, base"):
        format_table(summarise(rows), model="model", baseline="other")


def test_every_data_set_has_means_of_its_own() -> None:
    rows = [
        row(scene, "clean", method, VIF=value) | {"dataset": dataset}
        for dataset, scene, values in (
            ("tno", "a", (0.9, 0.6)),
            ("msrs", "b", (0.5, 0.4)),
            ("msrs", "c", (0.3, 0.4)),
        )
        for method, value in zip(("model", "base"), values, strict=True)
    ]
    parts = by_dataset(rows)
    assert list(parts) == ["msrs", "tno"]
    assert parts["msrs"].means[OVERALL, "model", "VIF"] == pytest.approx(0.4)
    lines = format_datasets(parts, model="model", baseline="base", metrics=("VIF",))
    assert len({len(line) for line in lines}) == 1
    assert [line.split() for line in lines[2:]] == [
        ["msrs", "2", "0.4000", "(+0.0000)"],
        ["tno", "1", "0.9000", "(+0.3000)"],
    ]


def test_the_worst_cases_of_every_metric_come_once_each() -> None:
    # Nabf is better when lower.
    rows = [row(scene, "clean", "average", VIF=1.0, Nabf=0.5) for scene in "abc"]
    rows += [
        row("a", "clean", "model", VIF=0.5, Nabf=0.1),
        row("b", "clean", "model", VIF=0.9, Nabf=0.9),
        row("c", "clean", "model", VIF=1.5, Nabf=0.6),
    ]

    def worst(count: int) -> dict[tuple[str, str], tuple[str, ...]]:
        metrics = ("VIF", "Nabf")
        return worst_cases(rows, metrics=metrics, model="model", baseline="average", count=count)

    assert worst(1) == {("a", "clean"): ("VIF",), ("b", "clean"): ("Nabf",)}
    assert worst(2) == {
        ("a", "clean"): ("VIF",),
        ("b", "clean"): ("VIF", "Nabf"),
        ("c", "clean"): ("Nabf",),
    }
