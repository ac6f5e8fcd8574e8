"""The tables of the report: means by scenario, what methods cost, what the gate compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from models.metrics import DIRECTION
from pipelines.evaluation.efficiency import Efficiency
from pipelines.evaluation.summaries import OVERALL, Summary
from pipelines.promotion.gate import Comparison
from pipelines.reports.page import section
from pipelines.reports.wording import (
    count_text,
    headline_of,
    number_text,
    percent_text,
    signed_text,
    spoken,
)


def overall_part(summary: Summary) -> str:
    """The few numbers to read first: the model's mean over scenarios, and against the others."""
    tiles = "".join(_tile(summary, metric) for metric in headline_of(summary))
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
        lines.append(
            f'<p><span class="{kind}">{signed_text(gain)}</span> against {escape(other)}</p>'
        )
    return (
        f'<div class="tile"><h3>{escape(metric)}, all scenarios</h3>'
        f'<p class="big">{number_text(value)}</p>{"".join(lines)}</div>'
    )


def scenario_part(summary: Summary) -> str:
    """Means of every method by scenario: headline metrics, the others folded away."""
    headline = headline_of(summary)
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


def dataset_part(summaries: Mapping[str, Summary]) -> str:
    """Overall means of every method by data set; nothing of a single one."""
    if len(summaries) < 2:
        return ""
    first, *_ = summaries.values()
    headline = headline_of(first)
    lines = (
        _table_line(
            summary, OVERALL, headline, label=f"{escape(name)} ({max(summary.num_scenes.values())})"
        )
        for name, summary in summaries.items()
    )
    note = (
        "Means over all scenarios, with the number of scenes; the best method of a line is marked."
    )
    return section("By data set", _table_of(first, "Data set", headline, lines), note=note)


def _table(summary: Summary, metrics: Sequence[str]) -> str:
    lines = (
        _table_line(
            summary,
            scenario,
            metrics,
            label=spoken(scenario),
            kind="overall" if scenario == OVERALL else "",
        )
        for scenario in (OVERALL, *summary.scenarios)
    )
    return _table_of(summary, "Scenario", metrics, lines)


def _table_of(summary: Summary, corner: str, metrics: Sequence[str], lines: Iterable[str]) -> str:
    span = len(summary.methods)
    top = "".join(f'<th colspan="{span}" scope="colgroup">{escape(m)}</th>' for m in metrics)
    methods = "".join(
        f'<th scope="col"{_first(i)}>{escape(method)}</th>'
        for _ in metrics
        for i, method in enumerate(summary.methods)
    )
    return (
        f'<div class="wide"><table><thead><tr><th rowspan="2" scope="col">{corner}</th>'
        f"{top}</tr><tr>{methods}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _table_line(
    summary: Summary, scenario: str, metrics: Sequence[str], *, label: str, kind: str = ""
) -> str:
    cells = []
    for metric in metrics:
        best = summary.best(scenario, metric)
        for i, method in enumerate(summary.methods):
            value = summary.means.get((scenario, method, metric))
            number = "–" if value is None else number_text(value)
            text = f"<strong>{number}</strong>" if method == best else number
            cells.append(f"<td{_first(i)}>{text}</td>")
    marked = f' class="{kind}"' if kind else ""
    return f'<tr{marked}><th scope="row">{label}</th>{"".join(cells)}</tr>'


def _first(index: int) -> str:
    return ' class="first"' if index == 0 else ""


def efficiency_part(efficiencies: Sequence[Efficiency]) -> str:
    """What every method costs."""
    first = efficiencies[0]
    names = ("Method", "Parameters", "MACs", "Seconds", "Peak memory")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = "".join(
        f'<tr><th scope="row">{escape(item.method)}</th>'
        f"<td>{count_text(item.parameters)}</td><td>{count_text(item.macs)}</td>"
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


def comparisons_part(comparisons: Sequence[Comparison]) -> str:
    """Every comparison of the gate, folded away behind their counts."""
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Scenario", "Metric", "Challenger", "Reference", "Change", "95 %", "Outcome")
    )
    lines = "".join(
        f'<tr><th scope="row">{spoken(item.scenario)}</th><td>{escape(item.metric)}</td>'
        f"<td>{number_text(item.challenger)}</td><td>{number_text(item.reference)}</td>"
        f"<td>{percent_text(item.change)}</td>"
        f"<td>{percent_text(item.low)} to {percent_text(item.high)}</td>"
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
