import numpy as np
import pytest

from pipelines.evaluation.confidence import mean_interval
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
