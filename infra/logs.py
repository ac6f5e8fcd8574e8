"""Logs: with FUSION_LOG=json each line is a JSON object, otherwise it is text for people.

An object has the time, level and message, and the job and run where they are known.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from infra.settings import log_fields


def json_line(message: str, *, level: str = "INFO", **fields: Any) -> str | None:
    """The line for a message, None where logs are text."""
    known = log_fields()
    if known is None:
        return None
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "message": message, **known, **fields})


def log_event(message: str, **fields: Any) -> None:
    """Write a JSON line to stderr, which in a worker is its log file; nothing where logs are text."""
    line = json_line(message, **fields)
    if line is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def log_warning(message: str) -> None:
    """Write a warning to stderr, as JSON or as text."""
    sys.stderr.write(f"{json_line(message, level='WARNING') or message}\n")
    sys.stderr.flush()
