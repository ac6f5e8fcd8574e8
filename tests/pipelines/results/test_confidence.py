import numpy as np
import pytest

from pipelines.results.confidence import mean_interval, mean_intervals
from pipelines.store.seeding import rng_at


def test_known_values() -> None:
    values = np.linspace(0.0, 1.0, 101)
    low, high = mean_interval(values, rng_at(0, "a"), num_resamples=4000)
    # 1.96 standard errors: 1.96 * 0.2915 / sqrt(101) = 0.057.
    assert (low, high) == pytest.approx((0.5 - 0.057, 0.5 + 0.057), abs=0.004)


def test_the_same_address_gives_the_same_interval() -> None:
    values = [0.1, 0.5, 0.2, 0.9]
    first, again, other = (
        mean_interval(values, rng_at(0, name), num_resamples=200) for name in "aab"
    )
    assert first == again != other


def test_one_value_and_equal_values_have_no_width() -> None:
    assert mean_interval([0.3], rng_at(0), num_resamples=100) == (0.3, 0.3)
    low, high = mean_interval([0.25] * 5, rng_at(0), num_resamples=100)
    assert low == high == 0.25


def test_bounds_hold_together_where_each_interval_holds_alone() -> None:
    wrong_bounds = wrong_intervals = 0
    for trial in range(60):
        values = rng_at(0, str(trial)).normal(size=(40, 20))  # the true means are 0
        found = mean_intervals(values, rng_at(1, str(trial)), num_resamples=200)
        wrong_bounds += bool((found.bound > 0).any())
        wrong_intervals += bool((found.low > 0).any())
    assert wrong_bounds <= 8  # 5 % of 60, with room for chance
    assert wrong_intervals >= 12  # one of twenty is above zero in two trials of five


def test_a_scene_without_a_value_does_not_count() -> None:
    values = np.array([[0.1, 1.0], [0.3, np.nan], [0.2, 3.0], [0.5, 2.0]])
    found = mean_intervals(values, rng_at(0), num_resamples=300)
    alone = mean_intervals(values[:, :1], rng_at(0), num_resamples=300)
    assert (found.low[0], found.high[0]) == (alone.low[0], alone.high[0])
    assert 1.0 <= found.low[1] < 2.0 < found.high[1] <= 3.0
