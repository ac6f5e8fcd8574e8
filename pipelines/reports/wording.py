"""Numbers, names of scenarios and headline metrics as the report's tables and charts write them."""

from __future__ import annotations

from html import escape

from pipelines.evaluation.summaries import HEADLINE, Summary


def headline_of(summary: Summary) -> list[str]:
    """The headline metrics that were measured."""
    return [metric for metric in HEADLINE if metric in summary.metrics]


def spoken(scenario: str) -> str:
    """`plain_words`, as HTML."""
    return escape(plain_words(scenario))


def plain_words(scenario: str) -> str:
    """Scenario names as people write them: `vi_low_light@weak` -> VI low light, weak."""
    words = scenario.replace("_", " ").replace("+", " + ").replace("@", ", ").split()
    text = " ".join(word.upper() if word in ("vi", "ir") else word for word in words)
    return text[:1].upper() + text[1:]


def number_text(value: float) -> str:
    """A number to three digits or so, with a true minus sign."""
    # A hyphen is not as wide as a digit.
    text = f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return text.replace("-", "\u2212")


def signed_text(value: float) -> str:
    """A difference, always with its sign."""
    return ("+" if value >= 0 else "") + number_text(value)


def percent_text(share: float) -> str:
    """A share as a signed percentage."""
    return f"{share:+.1%}".replace("-", "\u2212").replace("%", "\u202f%")


def count_text(number: int | None) -> str:
    """A large count with its unit: 1234567 -> 1.23 M."""
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}\u202f{unit}"
    return str(number)
