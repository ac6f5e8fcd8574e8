"""Geometry of bar charts and histograms, in SVG units; `templates/charts.html.j2` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

_MOST_BINS = 24
_LETTER = 6.2


@dataclass(frozen=True)
class Bar:
    """A mean and its 95 % interval."""

    label: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from zero with whiskers; with `signed`, coloured by their side of zero."""

    title: str
    bars: Sequence[Bar]
    signed: bool = False

    # A bar's line, and the room for the number at its end.
    width: ClassVar[int] = 420
    line: ClassVar[int] = 22
    number: ClassVar[int] = 58

    @property
    def label(self) -> int:
        """Room for the longest label, as wide as its letters are on average."""
        longest = max(len(bar.label) for bar in self.bars)
        return min(max(110, math.ceil(longest * _LETTER) + 12), 240)

    def x(self, value: float) -> float:
        """Where a value lies."""
        low = min(0.0, *(bar.low for bar in self.bars))
        high = max(0.0, *(bar.high for bar in self.bars))
        span = high - low or 1.0
        return self.label + (value - low) / span * (self.width - self.label - self.number)


@dataclass(frozen=True)
class Histogram:
    """Shares of the highest bin, between the least and the greatest of `num_values`."""

    name: str
    shares: Sequence[float]
    num_values: int
    mean: float
    low: float
    high: float

    # The bars stand above a line at `base`, the range below it.
    width: ClassVar[int] = 340
    height: ClassVar[int] = 110
    base: ClassVar[int] = 90


def histogram(name: str, values: Sequence[float]) -> Histogram:
    """Count values in bins; few values in many bins are a comb and not a shape."""
    num_bins = int(np.clip(2 * math.sqrt(len(values)), 6, _MOST_BINS))
    counts, _ = np.histogram(values, bins=num_bins)
    shares = (counts / counts.max()).tolist()
    mean = float(np.mean(values))
    return Histogram(name, shares, len(values), mean, min(values), max(values))
