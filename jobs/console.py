"""What a person sees: sections, progress, tables, and one line for a mistake."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.logs import json_line

CONSOLE = Console(highlight=False, soft_wrap=True)
_LINE_EVERY_S = 5.0
_PACE_OVER_S = 1800.0
_MAX_LINE = 2000


class Advance(Protocol):
    """Report how many are done, which one is next, and the total where it was not known before."""

    def __call__(self, done: int, text: str = "", *, total: int | None = None) -> None:
        """Show it."""


def section(title: str) -> None:
    """Announce a step."""
    if not _logged(title):
        CONSOLE.print(f"\n[bold cyan]── {title}[/]")


def print_line(text: str) -> None:
    """Print a line as it is."""
    if not _logged(text.strip()):
        CONSOLE.print(text, markup=False)


def _logged(message: str, **fields: Any) -> bool:
    """Print a line for machines, if those are wanted."""
    line = json_line(message, **fields)
    if line is not None:
        print(line, flush=True)
    return line is not None


def print_facts(rows: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    if _logged("facts", facts=dict(rows)):
        return
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        CONSOLE.print(f"  {name:<{width}}  {value}", markup=False)


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Advance]:
    """Show how far `advance(done, text)` has come: a bar on a terminal, else a line every 5 s."""
    if not CONSOLE.is_terminal or json_line("") is not None:
        yield _lines(title, total)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}"),
    )
    # Rich estimates the pace over 30 s by default: nothing where reports are further apart.
    with Progress(*columns, console=CONSOLE, speed_estimate_period=_PACE_OVER_S) as bar:
        task = bar.add_task(title, total=total, text="")

        def advance(done: int, text: str = "", *, total: int | None = None) -> None:
            bar.update(task, completed=done, text=text, total=total)

        yield advance


def _lines(title: str, known_total: int | None) -> Advance:
    shown, shown_at = 0, time.monotonic()
    # A resumed run starts in the middle: its pace counts from its first report.
    first: tuple[int, float] | None = None

    def advance(done: int, text: str = "", *, total: int | None = None) -> None:
        nonlocal shown, shown_at, first
        total = total or known_total or done
        now = time.monotonic()
        first = first or (done, now)
        if done != shown and (now - shown_at >= _LINE_EVERY_S or done == total):
            pace = (now - first[1]) / (done - first[0]) if done > first[0] else 0.0
            left = f"about {duration(pace * (total - done))} left" if pace and done < total else ""
            if not _logged("progress", title=title, done=done, total=total, text=text):
                print_line("  " + "  ".join(filter(None, (f"{title} {done}/{total}", text, left))))
            shown, shown_at = done, now

    return advance


def print_error(error: BaseException) -> None:
    """Print an error on one line of the error stream."""
    line = f"error: {one_line(error)}"
    print(json_line(line, level="ERROR") or line, file=sys.stderr)


def one_line(error: BaseException) -> str:
    """An error's message on one line; a configuration's with the path of each wrong key."""
    if isinstance(error, ValidationError):
        parts = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors()
        ]
        return _shortened("; ".join(parts))
    return _shortened(" ".join(str(error).split()))


def _shortened(text: str) -> str:
    """A line without its middle where a value in it is longer than a person reads."""
    if len(text) <= _MAX_LINE:
        return text
    return f"{text[: _MAX_LINE // 2]} … {text[-_MAX_LINE // 2 :]}"
