"""What a method costs: parameters, multiply-accumulates, seconds, peak memory.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_REPEATS = 3


class Efficiency(BaseModel):
    """Costs of fusing one pair of a size on one thread; None for what a method has none of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    width: int
    height: int
    parameters: int | None
    macs: int | None
    seconds: float
    peak_mib: float | None


def measure_efficiency(
    method: str, fuse: Callable[[Tensor, Tensor], Tensor], vi: Tensor, ir: Tensor
) -> Efficiency:
    """Fuse vi 1×3×H×W and ir 1×1×H×W a few times; seconds are the median.

    Memory is what the peak adds to the process before (Linux only, else None). MACs are those of
    matrix products and convolutions, half of torch's FLOP count.
    """
    with torch.inference_mode():
        fuse(vi, ir)
        before = _reset_peak_mib()
        fuse(vi, ir)
        peak = _status_mib("VmHWM")
        seconds = statistics.median(_seconds(fuse, vi, ir) for _ in range(_REPEATS))
        network = fuse if isinstance(fuse, nn.Module) else None
        return Efficiency(
            method=method,
            width=vi.shape[-1],
            height=vi.shape[-2],
            parameters=_count_parameters(network) if network else None,
            macs=_count_macs(fuse, vi, ir) if network else None,
            seconds=seconds,
            peak_mib=None if before is None or peak is None else max(0.0, peak - before),
        )


def _seconds(fuse: Callable[[Tensor, Tensor], Tensor], vi: Tensor, ir: Tensor) -> float:
    started = time.perf_counter()
    fuse(vi, ir).to("cpu")
    return time.perf_counter() - started


def _count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _count_macs(fuse: Callable[[Tensor, Tensor], Tensor], vi: Tensor, ir: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        fuse(vi, ir)
    return counter.get_total_flops() // 2


def _reset_peak_mib() -> float | None:
    """Let the peak of resident memory start anew; return what is resident now."""
    try:
        # What earlier pictures left in the allocator is given back, or this one would reuse it unseen.
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
