"""Lines for machines: with FUSION_LOG=json whatever is told is a JSON object a line.

Each has its time, level and message, and the job, run and rank that it belongs to where they are known.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from infra.settings import log_fields


def json_line(message: str, *, level: str = "INFO", **fields: Any) -> str | None:
    """The line for a message, None where lines are for people."""
    known = log_fields()
    if known is None:
        return None
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "message": message, **known, **fields})


def tell(message: str, **fields: Any) -> None:
    """Write a line to the error stream, which in a worker is its log file; nothing for people."""
    line = json_line(message, **fields)
    if line is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def notice(message: str) -> None:
    """Write a line to the error stream for whoever reads it, a person or a machine."""
    sys.stderr.write(f"{json_line(message, level='WARNING') or message}\n")
    sys.stderr.flush()
