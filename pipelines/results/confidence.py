"""Bootstrap confidence intervals of means: of one, and of many that are judged together.

n scenes, k columns (a metric under a scenario each).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Intervals:
    """Intervals of k means: `low` and `high` of each alone, `bound` from below of all at once.

    Each interval holds its mean with 95 % confidence (BCa: Efron, 1987). The bounds hold together: with
    95 % confidence no mean is below its bound (maximum of the studentised differences: Westfall and
    Young, 1993), however many there are and however they hang together.
    """

    low: np.ndarray
    high: np.ndarray
    bound: np.ndarray


def mean_intervals(
    values: np.ndarray, rng: np.random.Generator, *, num_resamples: int
) -> Intervals:
    """Intervals of the means of n×k values over n, NaN where a scene has none.

    A resample draws whole scenes, so what the columns share is kept. For paired data pass differences.
    A column without spread is its own interval.
    """
    from scipy.stats import DegenerateDataWarning  # seconds, which every worker would wait

    means = np.nanmean(values, axis=0)
    spread = np.nanstd(values, axis=0) > 1e-12 * np.maximum(np.abs(means), 1e-12)
    low, high, bound = means.copy(), means.copy(), means.copy()
    if len(values) > 1 and spread.any():
        columns = values[:, spread]
        with warnings.catch_warnings():
            # A column of few different values may leave BCa undefined; then its percentiles count.
            warnings.simplefilter("ignore", DegenerateDataWarning)
            # A resample may hold no scene of a column.
            warnings.simplefilter("ignore", RuntimeWarning)
            low[spread], high[spread] = _each(columns, rng, num_resamples)
            bound[spread] -= _critical(columns, rng, num_resamples) * _error(columns, 0)
    return Intervals(low, high, bound)


def mean_interval(
    values: Sequence[float] | np.ndarray, rng: np.random.Generator, *, num_resamples: int
) -> tuple[float, float]:
    """95 % interval of one mean (BCa); a single value is its own interval."""
    found = mean_intervals(np.asarray(values, float)[:, None], rng, num_resamples=num_resamples)
    return float(found.low[0]), float(found.high[0])


def _each(
    columns: np.ndarray, rng: np.random.Generator, num_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of each column's own interval."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (columns,),
        np.nanmean if np.isnan(columns).any() else np.mean,
        n_resamples=num_resamples,
        confidence_level=CONFIDENCE,
        method="BCa",
        axis=0,
        rng=rng,
    )
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    plain = np.nanquantile(found.bootstrap_distribution, tails, axis=1)
    interval = found.confidence_interval
    low, high = (
        np.where(np.isfinite(end), end, percentile)
        for end, percentile in zip((interval.low, interval.high), plain, strict=True)
    )
    return low, high


def _critical(columns: np.ndarray, rng: np.random.Generator, num_resamples: int) -> float:
    """How many standard errors below every mean the common bound lies."""
    from scipy.stats import bootstrap

    means = np.nanmean(columns, axis=0)

    def differences(drawn: np.ndarray, axis: int) -> np.ndarray:
        # Columns come first, then resamples, then scenes.
        here = means.reshape(-1, *[1] * (drawn.ndim - 2))
        result: np.ndarray = (np.nanmean(drawn, axis=axis) - here) / _error(drawn, axis)
        return result

    found = bootstrap(
        (columns,),
        differences,
        n_resamples=num_resamples,
        vectorized=True,
        method="percentile",
        axis=0,
        rng=rng,
    )
    drawn = np.where(np.isfinite(found.bootstrap_distribution), found.bootstrap_distribution, 0)
    return float(np.quantile(drawn.max(axis=0), CONFIDENCE))


def _error(values: np.ndarray, axis: int) -> np.ndarray:
    """Standard error of the mean."""
    count = np.sum(~np.isnan(values), axis=axis)
    error: np.ndarray = np.nanstd(values, axis=axis, ddof=1) / np.sqrt(count)
    return error
