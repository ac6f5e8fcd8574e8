"""Filters of the page templates: how numbers and names are written.

Minus signs are U+2212, which is as wide as a digit; units follow a narrow no-break space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def words(name: str) -> str:
    """Names of scenarios and stored pictures: `vi_low_light@weak` -> VI low light, weak."""
    text = name.replace("_gt", "_reference").replace("_", " ")
    parts = text.replace("+", " + ").replace("@", ", ").split()
    return " ".join(part.upper() if part in ("vi", "ir") else part for part in parts)


def sentence(name: str) -> str:
    """`words` with a capital: `low_light+rain` -> Low light + rain."""
    text = words(name)
    return text[:1].upper() + text[1:]


def number(value: float | None) -> str:
    """Three digits or so: 0.1234 -> 0.123, 23.456 -> 23.46; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    return fixed(value, 2 if abs(value) >= 10 else 3)


def signed(value: float) -> str:
    """A difference, always with its sign."""
    return ("+" if value >= 0 else "") + number(value)


def fixed(value: float, num_decimals: int, sign: str = "-") -> str:
    """A number with so many decimals; `sign="+"` writes the plus, too."""
    return f"{value:{sign}.{num_decimals}f}".replace("-", "\u2212")


def count(value: int | None) -> str:
    """A large count with its unit: 1234567 -> 1.23 M; a dash for None."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}\u202f{unit}"
    return str(value)


def px(value: float) -> str:
    """A coordinate in SVG units, to a tenth."""
    return f"{value:.1f}"


FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (words, sentence, number, signed, fixed, count, px)
}
