"""The evaluation report: one HTML page with pictures, tables and curves inside.

No script, no font and no picture is fetched: the file can be mailed, stored as an artifact and
opened years later. Every text that comes from outside goes through `html.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.efficiency import Efficiency
from pipelines.evaluation.measuring import Example
from pipelines.evaluation.probes import Point
from pipelines.evaluation.summaries import by_dataset, summarise
from pipelines.promotion.gate import Verdict
from pipelines.reports.curves import Curve
from pipelines.reports.evaluation_charts import bars_part, curves_part, points_part, steps_part
from pipelines.reports.evaluation_tables import (
    comparisons_part,
    dataset_part,
    efficiency_part,
    overall_part,
    scenario_part,
)
from pipelines.reports.page import facts_part, figure, render_page, section
from pipelines.reports.wording import number_text, spoken
from pipelines.store.files import write_whole

_NUMBERS_BELOW = ("VIF", "Qabf", "MI", "SSIM", "PSNR")


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
        overall_part(summary) if summary else "",
        facts_part(facts) if facts else "",
        scenario_part(summary) if summary else "",
        dataset_part(by_dataset([dict(row) for row in rows])) if rows else "",
        bars_part(summary, rows) if summary else "",
        _examples_part("Worst cases", worst, rows) if worst else "",
        _examples_part("Examples", examples, rows) if examples else "",
        steps_part(steps) if steps else "",
        efficiency_part(efficiencies) if efficiencies else "",
        points_part(points) if points else "",
        curves_part(curves) if curves else "",
        comparisons_part(verdict.comparisons) if verdict and verdict.comparisons else "",
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
    quiet = ", ".join(filter(None, (example.scene, example.note)))
    return (
        f'<article><h3>{spoken(example.scenario)} <span class="quiet">{escape(quiet)}'
        f'</span></h3><div class="strip">{"".join(figures)}</div></article>'
    )


def _figure(
    picture: np.ndarray, label: str, *, row: Mapping[str, Any] | None = None, same: bool = False
) -> str:
    numbers = [f"{name} {number_text(row[name])}" for name in _NUMBERS_BELOW if row and name in row]
    return figure(picture, label, below=["left clean"] if same else numbers)
