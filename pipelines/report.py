"""The evaluation report: one HTML page with pictures, tables and curves inside.

No script, no font and no picture is fetched: the file can be mailed, stored as an artifact and
opened years later. Every text that comes from outside goes through `html.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from models.metrics import DIRECTION
from pipelines.charts import Bar, Dot, bar_chart, dot_map
from pipelines.efficiency import Efficiency
from pipelines.embedding import Point
from pipelines.evaluation import (
    BASELINE,
    HEADLINE,
    OVERALL,
    Example,
    Summary,
    interval_of,
    summarise,
)
from pipelines.files import write_whole
from pipelines.gate import Comparison, Verdict
from pipelines.page import facts_part, figure, render_page, section

Curve = Sequence[tuple[int, float]]

# Longer curves are drawn by the lowest and highest point of that many stretches.
_NUM_STRETCHES = 200
# A loss that starts this many times above its end hides the rest on a linear axis.
_LOG_SPAN = 20
_NUMBERS_BELOW = ("VIF", "Qabf", "SSIM", "PSNR")


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    curves: Mapping[str, Curve],
    verdict: Verdict | None = None,
    worst: Sequence[Example] = (),
    points: Sequence[Point] = (),
    efficiencies: Sequence[Efficiency] = (),
    steps: Mapping[int, Mapping[str, float]] | None = None,
) -> None:
    """Write one self-contained page; parts without content are left out.

    The first method of `rows` is taken as the model, the others as what it is compared with.
    """
    summary = summarise([dict(row) for row in rows]) if rows else None
    parts = [
        _verdict_part(verdict) if verdict else "",
        _overall_part(summary) if summary else "",
        facts_part(facts) if facts else "",
        _scenario_part(summary) if summary else "",
        _bars_part(summary, rows) if summary else "",
        _examples_part("Worst cases", worst, rows) if worst else "",
        _examples_part("Examples", examples, rows) if examples else "",
        _steps_part(steps) if steps else "",
        _efficiency_part(efficiencies) if efficiencies else "",
        _points_part(points) if points else "",
        _curves_part(curves) if curves else "",
        _comparisons_part(verdict.comparisons) if verdict and verdict.comparisons else "",
    ]
    write_whole(path, render_page(title, parts).encode())


def _verdict_part(verdict: Verdict) -> str:
    word, kind = ("Passed", "good") if verdict.passed else ("Refused", "bad")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<section class="verdict {kind}"><p><strong>{word}</strong> '
        f"<span>Gate: {escape(verdict.rule)}.</span></p>"
        + (f"<ul>{reasons}</ul>" if reasons else "")
        + "</section>"
    )


def _overall_part(summary: Summary) -> str:
    """The few numbers to read first: the model's mean over scenarios, and against the others."""
    tiles = "".join(_tile(summary, metric) for metric in _headline(summary))
    return f'<section class="tiles">{tiles}</section>'


def _tile(summary: Summary, metric: str) -> str:
    model, *others = summary.methods
    value = summary.means[OVERALL, model, metric]
    lines = []
    for other in others:
        if (OVERALL, other, metric) not in summary.means:
            continue
        gain = value - summary.means[OVERALL, other, metric]
        better = DIRECTION[metric] * gain
        kind = "up" if better > 0 else "down" if better < 0 else ""
        lines.append(f'<p><span class="{kind}">{_signed(gain)}</span> against {escape(other)}</p>')
    return (
        f'<div class="tile"><h3>{escape(metric)}, all scenarios</h3>'
        f'<p class="big">{_number(value)}</p>{"".join(lines)}</div>'
    )


def _scenario_part(summary: Summary) -> str:
    headline = _headline(summary)
    num_scenes = sorted(set(summary.num_scenes.values()))
    scenes = str(num_scenes[0]) if len(num_scenes) == 1 else f"{num_scenes[0]} to {num_scenes[-1]}"
    note = (
        f"Means over {scenes} scenes, measured against the undegraded sources; higher is better, but for "
        "Nabf. The best method of a line is marked. Overall weighs every scenario equally."
    )
    rest = [metric for metric in summary.metrics if metric not in headline]
    more = (
        f"<details><summary>Other metrics: {escape(', '.join(rest))}</summary>"
        '<p class="note">EN, SD, SF and AG look at the fused picture alone and also rise with '
        f"noise.</p>{_table(summary, rest)}</details>"
        if rest
        else ""
    )
    return section("By scenario", _table(summary, headline) + more, note=note)


def _table(summary: Summary, metrics: Sequence[str]) -> str:
    span = len(summary.methods)
    top = "".join(f'<th colspan="{span}" scope="colgroup">{escape(m)}</th>' for m in metrics)
    methods = "".join(
        f'<th scope="col"{_first(i)}>{escape(method)}</th>'
        for _ in metrics
        for i, method in enumerate(summary.methods)
    )
    body = "".join(
        _table_line(summary, scenario, metrics) for scenario in (OVERALL, *summary.scenarios)
    )
    return (
        '<div class="wide"><table><thead><tr><th rowspan="2" scope="col">Scenario</th>'
        f"{top}</tr><tr>{methods}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _table_line(summary: Summary, scenario: str, metrics: Sequence[str]) -> str:
    cells = []
    for metric in metrics:
        best = summary.best(scenario, metric)
        for i, method in enumerate(summary.methods):
            value = summary.means.get((scenario, method, metric))
            number = "–" if value is None else _number(value)
            text = f"<strong>{number}</strong>" if method == best else number
            cells.append(f"<td{_first(i)}>{text}</td>")
    kind = ' class="overall"' if scenario == OVERALL else ""
    return f'<tr{kind}><th scope="row">{_spoken(scenario)}</th>{"".join(cells)}</tr>'


def _bars_part(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> str:
    """Every method over all scenarios, and the model against the average scenario by scenario."""
    charts = [_method_bars(summary, rows, metric) for metric in _headline(summary)]
    if BASELINE in summary.methods[1:]:
        charts += [_gain_bars(summary, rows, metric) for metric in _headline(summary)]
    return section(
        "How sure the means are",
        f'<div class="charts">{"".join(charts)}</div>',
        note="Whiskers: 95 % bootstrap intervals over scenes. First the methods that were measured "
        f"under every scenario, then what the model gains on the {BASELINE}, by scenario.",
    )


def _method_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    bars = []
    for method in summary.methods:
        if (OVERALL, method, metric) not in summary.means:
            continue
        by_scene: dict[str, list[float]] = {}
        for row in rows:
            if row["method"] == method:
                by_scene.setdefault(row["scene"], []).append(row[metric])
        values = [float(np.mean(each)) for each in by_scene.values()]
        bars.append(_bar(method, values, f"{method} {metric}"))
    return bar_chart(f"{metric}, all scenarios", bars) if bars else ""


def _gain_bars(summary: Summary, rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    model = summary.methods[0]
    values = {(row["method"], row["scenario"], row["scene"]): row[metric] for row in rows}
    bars = []
    for scenario in summary.scenarios:
        gains = [
            value - values[BASELINE, scenario, scene]
            for (method, name, scene), value in values.items()
            if method == model and name == scenario and (BASELINE, name, scene) in values
        ]
        if gains:
            bars.append(_bar(_words(scenario), gains, f"{scenario} {metric}"))
    title = f"{metric}, {model} minus {BASELINE}"
    return bar_chart(title, bars, signed=True) if bars else ""


def _bar(label: str, values: Sequence[float], address: str) -> Bar:
    low, high = interval_of(values, address=address)
    return Bar(label=label, mean=float(np.mean(values)), low=low, high=high)


def _steps_part(steps: Mapping[int, Mapping[str, float]]) -> str:
    names = [name for name in HEADLINE if name in next(iter(steps.values()))]
    curves = {
        f"{name} by sampling steps": [
            (count, means[name]) for count, means in sorted(steps.items())
        ]
        for name in names
    }
    charts = "".join(_chart(name, points) for name, points in curves.items())
    return section(
        "Sampling steps",
        f'<div class="charts">{charts}</div>',
        note="Means over a few scenes under every scenario. The model was trained with one number "
        "of steps; it was not trained again for the others.",
    )


def _efficiency_part(efficiencies: Sequence[Efficiency]) -> str:
    first = efficiencies[0]
    names = ("Method", "Parameters", "MACs", "Seconds", "Peak memory")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = "".join(
        f'<tr><th scope="row">{escape(item.method)}</th>'
        f"<td>{_count(item.parameters)}</td><td>{_count(item.macs)}</td>"
        f"<td>{item.seconds:.3f}</td>"
        f"<td>{'–' if item.peak_mib is None else f'{item.peak_mib:.0f} MiB'}</td></tr>"
        for item in efficiencies
    )
    table = (
        f'<div class="wide"><table class="gate"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
    return section(
        "Efficiency",
        table,
        note=f"One {first.width}×{first.height} pair, batch 1, in one process; peak memory is what "
        "fusing adds to it.",
    )


def _count(number: int | None) -> str:
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}\u202f{unit}"
    return str(number)


def _points_part(points: Sequence[Point]) -> str:
    dots = [Dot(x=p.x, y=p.y, group=p.condition, ring=p.camera == "ir") for p in points]
    return section(
        "Degradation priors",
        dot_map("t-SNE of the degradation priors", dots),
        note=f"t-SNE of {len(points)} pictures' degradation priors: discs visible, rings infrared. "
        "What suffers the same should lie together; distances between groups mean little.",
    )


def _examples_part(
    title: str, examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]
) -> str:
    by_key = {(row["scene"], row["scenario"], row["method"]): row for row in rows}
    strips = "".join(_strip(example, by_key) for example in examples)
    return section(title, strips)


def _strip(example: Example, by_key: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> str:
    figures = [
        _figure(example.vi, "Source VI"),
        _figure(example.ir, "Source IR"),
        _figure(example.vi_lq, "Degraded VI", same=np.array_equal(example.vi, example.vi_lq)),
        _figure(example.ir_lq, "Degraded IR", same=np.array_equal(example.ir, example.ir_lq)),
    ]
    for method, picture in example.fused.items():
        row = by_key.get((example.scene, example.scenario, method))
        figures.append(_figure(picture, f"Fused: {method}", row=row))
    return (
        f'<article><h3>{_spoken(example.scenario)} <span class="quiet">{escape(example.scene)}'
        f'</span></h3><div class="strip">{"".join(figures)}</div></article>'
    )


def _figure(
    picture: np.ndarray, label: str, *, row: Mapping[str, Any] | None = None, same: bool = False
) -> str:
    numbers = [f"{name} {_number(row[name])}" for name in _NUMBERS_BELOW if row and name in row]
    return figure(picture, label, below=["left clean"] if same else numbers)


def _curves_part(curves: Mapping[str, Curve]) -> str:
    charts = "".join(_chart(name, points) for name, points in curves.items())
    return section(
        "Training curves",
        f'<div class="charts">{charts}</div>',
        note="Thin: as recorded. Bold: moving average over a twentieth of the run.",
    )


def _chart(name: str, points: Curve) -> str:
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


def _comparisons_part(comparisons: Sequence[Comparison]) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Scenario", "Metric", "Challenger", "Reference", "Change", "95 %", "Outcome")
    )
    lines = "".join(
        f'<tr><th scope="row">{_spoken(item.scenario)}</th><td>{escape(item.metric)}</td>'
        f"<td>{_number(item.challenger)}</td><td>{_number(item.reference)}</td>"
        f"<td>{_percent(item.change)}</td>"
        f"<td>{_percent(item.low)} to {_percent(item.high)}</td>"
        f'<td><span class="outcome {item.outcome}">{item.outcome}</span></td></tr>'
        for item in comparisons
    )
    table = (
        f'<div class="wide"><table class="gate"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
    counts = ", ".join(
        f"{sum(item.outcome == outcome for item in comparisons)} {outcome}"
        for outcome in ("better", "equal", "uncertain", "worse")
    )
    body = f"<details><summary>{len(comparisons)} comparisons: {counts}</summary>{table}</details>"
    return section("What the gate compared", body)


def _headline(summary: Summary) -> list[str]:
    return [metric for metric in HEADLINE if metric in summary.metrics]


def _spoken(scenario: str) -> str:
    return escape(_words(scenario))


def _words(scenario: str) -> str:
    """Scenario names as people write them: `vi_low_light@weak` -> VI low light, weak."""
    words = scenario.replace("_", " ").replace("+", " + ").replace("@", ", ").split()
    text = " ".join(word.upper() if word in ("vi", "ir") else word for word in words)
    return text[:1].upper() + text[1:]


def _first(index: int) -> str:
    return ' class="first"' if index == 0 else ""


def _number(value: float) -> str:
    # A true minus sign is as wide as a digit; a hyphen is not.
    text = f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return text.replace("-", "\u2212")


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + _number(value)


def _percent(share: float) -> str:
    return f"{share:+.1%}".replace("-", "\u2212").replace("%", "\u202f%")


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
