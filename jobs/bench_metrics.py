"""Seconds of the fourteen default metrics, against a plain float64 build of the same definitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from jobs.console import say
from models.metrics import DEFAULT, measure, to_grey
from pipelines.images import to_tensor
from pipelines.synthetic import render_scene
from tests.models.plain_metrics import plain_metrics

HEIGHT_PX, WIDTH_PX = 480, 640


def bench_metrics(*, repeats: int, batch_size: int) -> None:
    """Print the median seconds a picture of both builds, taken in turn, and their ratio."""
    torch.set_num_threads(1)
    pictures = [_triple(seed) for seed in range(batch_size)]
    batch = [torch.cat(side) for side in zip(*pictures, strict=True)]
    levels = [[to_grey(x)[0].numpy() for x in picture] for picture in pictures]
    fast = _measure(batch)
    plain = [plain_metrics(f, a, b) for f, b, a in levels]
    difference = max(
        abs(float(fast[name][i]) - plain[i][name]) / abs(plain[i][name])
        for i in range(batch_size)
        for name in DEFAULT
    )
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(_seconds(lambda: _measure(batch)) / batch_size)
        theirs.append(_seconds(lambda: [plain_metrics(f, a, b) for f, b, a in levels]) / batch_size)
    seconds, plain_seconds = statistics.median(ours), statistics.median(theirs)
    say(f"{len(DEFAULT)} metrics, {WIDTH_PX}x{HEIGHT_PX}, batch {batch_size}, float64, 1 thread")
    say("plain s a picture   ours   faster   largest relative difference")
    say(f"{plain_seconds:17.2f} {seconds:6.2f} {plain_seconds / seconds:7.1f}x {difference:12.1e}")


def _measure(batch: list[Tensor]) -> dict[str, Tensor]:
    fused, vi, ir = batch
    return measure(fused, vi, ir)


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _triple(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A rendered scene and its average with noise on it, which makes edges of its own."""
    vi, ir = (to_tensor(x) for x in render_scene(seed, height=HEIGHT_PX, width=WIDTH_PX))
    noise = 0.02 * torch.randn(ir.shape, generator=torch.Generator().manual_seed(seed))
    return ((vi + ir) / 2 + noise).clamp(0, 1), vi, ir
