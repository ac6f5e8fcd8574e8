"""Bootstrap confidence intervals of means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def mean_interval(
    values: Sequence[float] | np.ndarray, rng: np.random.Generator, *, num_resamples: int
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; a single value is its own interval.

    For paired data, pass the differences: a resample then draws pairs.
    """
    if len(values) == 1:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=num_resamples,
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
