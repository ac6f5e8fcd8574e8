"""The gate's error rates at 40 scenes, as README.md of pipelines/promotion has them."""

import pytest

from pipelines.promotion.characteristics import pass_rate
from pipelines.promotion.gate import GateConfig


@pytest.mark.parametrize(
    ("case", "least", "most"),
    [
        ("equal", 0.9, 1.0),
        ("5 % worse everywhere", 0.0, 0.05),
        ("15 % worse in one scenario", 0.0, 0.05),
    ],
)
def test_it_errs_as_rarely_as_it_says(case: str, least: float, most: float) -> None:
    config = GateConfig(num_resamples=300)
    assert least <= pass_rate(case, 40, num_trials=20, config=config) <= most
