"""A promise that a bench measures, and how a bench reports its promises."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel

from jobs.console import print_facts, print_line
from pipelines.store.files import write_whole


@dataclass(frozen=True)
class Line:
    """One promise: what was measured and what was promised, at least or at most."""

    name: str
    value: float
    target: float
    at_least: bool
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def report_lines(lines: Iterable[Line], sizes: BaseModel, path: Path) -> list[Line]:
    """Print each line when it is measured, and write all to `path` with the sizes they were measured at."""
    measured = []
    for line in lines:
        measured.append(line)
        word = "holds" if line.holds else "MISSED"
        sign = ">=" if line.at_least else "<="
        print_line(
            f"  {word:<6}  {line.name:<38} {line.value:8.3g}  ({sign} {line.target:g})  {line.detail}"
        )
    results = [asdict(line) | {"holds": line.holds} for line in measured]
    write_whole(
        path, json.dumps({"sizes": sizes.model_dump(), "lines": results}, indent=1).encode()
    )
    print_facts({"results": str(path)})
    return measured
