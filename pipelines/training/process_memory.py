"""Resident memory of this process."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path


def own_peak_mib() -> float:
    """Peak resident memory since the start, or since `restart_peak`, in MiB."""
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    # Second choice: it is inherited from the parent process, and cannot be reset.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def restart_peak() -> float | None:
    """Reset the peak; return the resident memory in MiB, or None where the system cannot do it."""
    try:
        # Return freed memory to the system first: its next use would not raise the peak.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(value) / 1024
