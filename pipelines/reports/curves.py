"""Geometry of curves over training steps, thinned so that no spike is lost.

`templates/charts.html.j2` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

Curve = Sequence[tuple[int, float]]
# Longer curves are thinned to the lowest and highest point of this many stretches.
_NUM_STRETCHES = 200
# On a linear axis, a curve that spans more than this ratio hides its lower part.
_LOG_SPAN = 20


@dataclass(frozen=True)
class Frame:
    """Where steps and values lie in the drawing; with `log` the limits of y are exponents."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    # SVG units; the margins hold the labels.
    width: ClassVar[int] = 420
    height: ClassVar[int] = 220
    left: ClassVar[int] = 54
    right: ClassVar[int] = 408
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = 182

    def at(self, step: float, value: float) -> tuple[float, float]:
        """Where a point of a curve lies."""
        return self._x(step), self._y(_height(value, self.log))

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Places and labels along the steps."""
        return [(self._x(tick), _short(tick)) for tick in _ticks(self.x_low, self.x_high, 5)]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Places and labels along the values."""
        return [
            (self._y(tick), f"{10**tick if self.log else tick:.4g}")
            for tick in _ticks(self.y_low, self.y_high, 4)
        ]

    def _x(self, step: float) -> float:
        share = (step - self.x_low) / (self.x_high - self.x_low)
        return self.left + share * (self.right - self.left)

    def _y(self, height: float) -> float:
        share = (height - self.y_low) / (self.y_high - self.y_low)
        return self.bottom - share * (self.bottom - self.top)


@dataclass(frozen=True)
class CurveChart:
    """A curve as recorded and smoothed, in its frame; without a frame there is nothing to draw."""

    name: str
    notes: Sequence[str]
    frame: Frame | None
    raw: Curve
    smooth: Curve


def curve_chart(name: str, points: Curve) -> CurveChart:
    """Thin and smooth a curve; notes give its last value and how many are not finite."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    lost = len(points) - len(finite)
    notes = [f"last {finite[-1][1]:.4g}"] if finite else ["no values"]
    if lost:
        notes.append(f"not finite and not drawn: {lost}")
    if not finite:
        return CurveChart(name, notes, None, (), ())
    log = _wants_log(finite)
    if log:
        notes.append("log scale")
    raw = _thin(finite)
    return CurveChart(name, notes, _frame_of(raw, log=log), raw, _thin(_smooth(finite)))


def _frame_of(curve: Curve, *, log: bool) -> Frame:
    return Frame(
        *_span([step for step, _ in curve], pad=0.0),
        *_span([_height(value, log) for _, value in curve], pad=0.05),
        log,
    )


def _short(step: float) -> str:
    return f"{step / 1000:g}k" if abs(step) >= 10_000 else f"{step:g}"


def _height(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _wants_log(points: Curve) -> bool:
    values = [value for _, value in points]
    return bool(values) and min(values) > 0 and max(values) > _LOG_SPAN * min(values)


def _span(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    return low - pad * (high - low), high + pad * (high - low)


def _ticks(low: float, high: float, num_about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high]."""
    rough = (high - low) / num_about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _smooth(points: Curve) -> Curve:
    """Centred mean over a twentieth of the points; narrower, and still centred, at both ends."""
    values = np.array([value for _, value in points], dtype=np.float64)
    sums = np.concatenate([[0.0], values.cumsum()])
    index = np.arange(len(values))
    half = np.minimum(np.minimum(index, index[::-1]), len(values) // 40)
    means = (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)
    return [(step, float(mean)) for (step, _), mean in zip(points, means, strict=True)]


def _thin(points: Curve) -> Curve:
    """Keep the ends of every stretch's range, so that no spike is lost, and both end points."""
    if len(points) <= 2 * _NUM_STRETCHES:
        return points
    chosen = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), _NUM_STRETCHES):
        ordered = sorted(stretch.tolist(), key=lambda i: points[i][1])
        chosen |= {ordered[0], ordered[-1]}
    return [points[i] for i in sorted(chosen)]
