"""What a method costs: parameters, multiply-accumulates, seconds, peak memory.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.system import Fuser, Hints
from pipelines.training.process_memory import own_peak_mib, restart_peak

_REPEATS = 3


class Efficiency(BaseModel):
    """Costs of fusing one pair of a size, on one thread or a GPU; None for what a method has none of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    width: int
    height: int
    parameters: int | None
    macs: int | None
    seconds: float
    peak_mib: float | None


def measure_efficiency(
    method: str, fuser: Fuser, vi: Tensor, ir: Tensor, hints: Hints
) -> Efficiency:
    """Fuse vi 1×3×H×W and ir 1×1×H×W a few times; seconds are the median.

    Memory is what the peak adds to the process before (Linux only, else None); of a network on a GPU
    what it has there, weights included. MACs are those of matrix products and convolutions, half of
    torch's FLOP count.
    """

    def fuse() -> Tensor:
        return fuser(vi, ir, hints).fused.to("cpu")

    with torch.inference_mode():
        fuse()
        peak_mib = _peak_mib(fuser, fuse)
        seconds = statistics.median(_seconds(fuse) for _ in range(_REPEATS))
        network = fuser if isinstance(fuser, nn.Module) else None
        return Efficiency(
            method=method,
            width=vi.shape[-1],
            height=vi.shape[-2],
            parameters=_count_parameters(network) if network else None,
            macs=_count_macs(fuse) if network else None,
            seconds=seconds,
            peak_mib=peak_mib,
        )


def _peak_mib(fuser: Fuser, fuse: Callable[[], Tensor]) -> float | None:
    if isinstance(fuser, nn.Module) and next(fuser.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        fuse()
        return torch.cuda.max_memory_allocated() / 2**20
    before = restart_peak()
    fuse()
    return None if before is None else max(0.0, own_peak_mib() - before)


def _seconds(fuse: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    fuse()
    return time.perf_counter() - started


def _count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _count_macs(fuse: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        fuse()
    return counter.get_total_flops() // 2
