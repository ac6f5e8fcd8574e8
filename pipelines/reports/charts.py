"""Charts of the report that are not curves: bars with intervals, and a map of points. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from pydantic import BaseModel, ConfigDict

# SVG units: a bar's line, the room for its label and for the number at its end.
_WIDTH, _LINE, _LABEL, _NUMBER = 420, 22, 150, 58
_MAP = 420
_PAD = 14
# Colours that stay apart in light and dark and for most eyes; shapes tell the cameras apart.
# fmt: off
_HUES = (
    "#2457c5", "#c2571a", "#17713a", "#8a3fa8", "#b08a00", "#0f8a94",
    "#a9271c", "#6b6f76", "#5b8def", "#e39a63", "#63b37f", "#c58be0",
)
# fmt: on


class Bar(BaseModel):
    """A mean and its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    mean: float
    low: float
    high: float


class Dot(BaseModel):
    """A point of a map; `group` decides its colour, `shape` whether it is a ring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float
    y: float
    group: str
    ring: bool


def bar_chart(title: str, bars: Sequence[Bar], *, signed: bool = False) -> str:
    """Horizontal bars from zero with whiskers; with `signed`, coloured by which side they are on."""
    low = min(0.0, *(bar.low for bar in bars))
    high = max(0.0, *(bar.high for bar in bars))
    if low == high:
        high = low + 1
    height = _LINE * len(bars) + 8

    def x(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - _NUMBER)

    lines = "".join(
        _bar(bar, i, x(0), x(bar.mean), x(bar.low), x(bar.high), signed)
        for i, bar in enumerate(bars)
    )
    axis = f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{height - 2}"/>'
    return (
        f"<figure><figcaption><b>{escape(title)}</b></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{lines}{axis}</svg></figure>"
    )


def _bar(
    bar: Bar, index: int, zero: float, mean: float, low: float, high: float, signed: bool
) -> str:
    top, middle = index * _LINE + 7, index * _LINE + 15
    kind = ("gain" if bar.mean >= 0 else "loss") if signed else "plain"
    number = f"{bar.mean:+.3f}" if signed else f"{bar.mean:.3f}"
    return (
        f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="{min(zero, mean):.1f}" y="{top}" '
        f'width="{abs(mean - zero):.1f}" height="16"/>'
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{_WIDTH}" y="{middle + 4}" text-anchor="end">'
        f"{number.replace('-', chr(0x2212))}</text>"
    )


def dot_map(title: str, dots: Sequence[Dot]) -> str:
    """Points on a square, a colour a group, with a legend."""
    groups = {group: i for i, group in enumerate(sorted({dot.group for dot in dots}))}
    colours = {group: _HUES[i % len(_HUES)] for group, i in groups.items()}
    x_low, x_span = _extent([dot.x for dot in dots])
    y_low, y_span = _extent([dot.y for dot in dots])
    room = _MAP - 2 * _PAD
    marks = "".join(
        _mark(
            _PAD + room * (dot.x - x_low) / x_span,
            _PAD + room * (dot.y - y_low) / y_span,
            colours[dot.group],
            dot.ring,
        )
        for dot in dots
    )
    rings = {dot.group: dot.ring for dot in dots}
    return (
        f'<figure class="map"><svg viewBox="0 0 {_MAP} {_MAP}" role="img" '
        f'aria-label="{escape(title)}">{marks}</svg>{_legend(colours, rings)}</figure>'
    )


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low, high - low if high > low and math.isfinite(high - low) else 1.0


def _mark(x: float, y: float, colour: str, ring: bool) -> str:
    style = f"fill:none;stroke:{colour};stroke-width:1.8" if ring else f"fill:{colour}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="{style}"/>'


def _legend(colours: Mapping[str, str], rings: Mapping[str, bool]) -> str:
    items = "".join(
        f'<span><svg viewBox="0 0 12 12">{_mark(6, 6, colour, rings[group])}</svg>'
        f"{escape(group.replace('_', ' '))}</span>"
        for group, colour in colours.items()
    )
    return f'<figcaption class="legend">{items}</figcaption>'
