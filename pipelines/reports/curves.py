"""Curves over training steps as SVG, thinned so that no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

Curve = Sequence[tuple[int, float]]
# Longer curves are drawn by the lowest and highest point of that many stretches.
_NUM_STRETCHES = 200
# A loss that starts this many times above its end hides the rest on a linear axis.
_LOG_SPAN = 20


def curve_chart(name: str, points: Curve) -> str:
    """A figure of one curve: as recorded, smoothed, its last value, and what was not finite."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    lost = len(points) - len(finite)
    notes = [f"last {finite[-1][1]:.4g}"] if finite else ["no values"]
    if lost:
        notes.append(f"not finite and not drawn: {lost}")
    log = _wants_log(finite)
    if log:
        notes.append("log scale")
    drawing = _svg(name, _thin(finite), _thin(_smooth(finite)), log=log) if finite else ""
    return (
        f"<figure><figcaption><b>{escape(name)}</b><span>{escape(', '.join(notes))}</span>"
        f"</figcaption>{drawing}</figure>"
    )


# Chart geometry in SVG units: width, height, and the margins that hold the labels.
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 220, 54, 12, 10, 38


@dataclass(frozen=True)
class _Frame:
    """Where steps and values lie in the drawing; with `log` the limits of y are exponents."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, step: float) -> float:
        return _LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (_W - _LEFT - _RIGHT)

    def y(self, height: float) -> float:
        share = (height - self.y_low) / (self.y_high - self.y_low)
        return _H - _BOTTOM - share * (_H - _TOP - _BOTTOM)

    def at(self, step: float, value: float) -> tuple[float, float]:
        return self.x(step), self.y(_height(value, self.log))


def _svg(name: str, raw: Curve, smooth: Curve, *, log: bool) -> str:
    frame = _Frame(
        *_span([step for step, _ in raw], pad=0.0),
        *_span([_height(value, log) for _, value in raw], pad=0.05),
        log,
    )
    x, y = frame.at(*raw[-1])
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(name)} by training step">'
        f"{_axes(frame)}{_line(frame, raw, 'raw')}{_line(frame, smooth, 'smooth')}"
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )


def _line(frame: _Frame, curve: Curve, kind: str) -> str:
    points = (frame.at(step, value) for step, value in curve)
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _axes(frame: _Frame) -> str:
    left, right, bottom = _LEFT, _W - _RIGHT, _H - _BOTTOM
    parts = []
    for tick in _ticks(frame.y_low, frame.y_high, 4):
        y, label = frame.y(tick), f"{10**tick if frame.log else tick:.4g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _ticks(frame.x_low, frame.x_high, 5):
        place = f'x="{frame.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle"'
        parts.append(f"<text {place}>{_short(tick)}</text>")
    return (
        f'{"".join(parts)}<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" x2="{left}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text x="{(left + right) / 2}" y="{_H - 5}" text-anchor="middle">step</text>'
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
