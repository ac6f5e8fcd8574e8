"""Closed intervals [low, high] for drawing parameters, checked when a configuration is read."""

from typing import Annotated

import numpy as np
from pydantic import AfterValidator

# Far beyond any strength of a degradation; numpy draws from it without overflow.
_MOST = 1e6


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not -_MOST <= low <= high <= _MOST:
        raise ValueError(
            f"interval {interval!r} is not low <= high, both within ±{_MOST:g}; correct its two ends"
        )
    return interval


def _not_negative(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] < 0:
        raise ValueError(f"interval {interval!r} begins below zero; raise its low end to 0 or more")
    return interval


def _positive(interval: tuple[int, int]) -> tuple[int, int]:
    if interval[0] < 1:
        raise ValueError(f"interval {interval!r} begins below one; raise its low end to 1 or more")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]
NonNegativeInterval = Annotated[Interval, AfterValidator(_not_negative)]
NonNegativeIntInterval = Annotated[
    tuple[int, int], AfterValidator(_ordered), AfterValidator(_not_negative)
]
PositiveIntInterval = Annotated[
    tuple[int, int], AfterValidator(_ordered), AfterValidator(_positive)
]


def draw_uniform(interval: tuple[float, float], rng: np.random.Generator) -> float:
    """One number, uniform in the interval; a fixed value is an interval with equal ends."""
    return float(rng.uniform(*interval))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for a noise field; 32 bits survive any JSON reader unrounded."""
    return int(rng.integers(2**32))
