"""Seconds of the default metrics, against plain float64 builds of the same definitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from numpy import ndarray
from torch import Tensor

from jobs.console import print_line
from models.metrics import DEFAULT, measure, to_grey
from pipelines.sources.pictures import to_tensor
from pipelines.synthetic.pairs import render_scene
from tests.models.plain_metrics import Blur, blur_by_lines, blur_by_planes, plain_metrics

Values = Mapping[str, Tensor]
Build = Callable[[], Values]
HEIGHT_PX, WIDTH_PX = 480, 640


def bench_metrics(*, repeats: int, batch_size: int) -> None:
    """Print the median seconds a picture of the builds, taken in turn, and their ratios to ours.

    The plain build as the definitions have it, with 2-D windows, and with separable ones.
    """
    torch.set_num_threads(1)
    pictures = [_triple(seed) for seed in range(batch_size)]
    fused, vi, ir = (torch.cat(side) for side in zip(*pictures, strict=True))
    levels = [[to_grey(x)[0].numpy() for x in picture] for picture in pictures]
    builds: dict[str, Build] = {
        "ours": lambda: measure(fused, vi, ir),
        "plain, 2-D windows": lambda: _plain(levels, blur_by_planes),
        "plain, separable windows": lambda: _plain(levels, blur_by_lines),
    }
    seconds: dict[str, list[float]] = {name: [] for name in builds}
    found: dict[str, Values] = {}
    for _ in range(repeats):
        for name, build in builds.items():
            started = time.process_time()
            found[name] = build()
            seconds[name].append((time.process_time() - started) / batch_size)
    print_line(
        f"{len(DEFAULT)} metrics, {WIDTH_PX}x{HEIGHT_PX}, batch {batch_size}, float64, 1 thread"
    )
    print_line(f"{'':<25} {'s a picture':>11} {'ours is':>8}   largest relative difference")
    ours = statistics.median(seconds["ours"])
    for name in builds:
        median = statistics.median(seconds[name])
        line = f"{name:<25} {median:11.3f}"
        if name != "ours":
            line += f" {median / ours:7.1f}x   {_difference(found['ours'], found[name]):.1e}"
        print_line(line)


def _plain(levels: list[list[ndarray]], blur: Blur) -> Values:
    tables = [plain_metrics(f, a, b, blur) for f, b, a in levels]
    return {
        name: torch.tensor([table[name] for table in tables], dtype=torch.float64)
        for name in DEFAULT
    }


def _difference(ours: Values, theirs: Values) -> float:
    return max(float(((ours[x] - theirs[x]) / theirs[x]).abs().max()) for x in DEFAULT)


def _triple(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A rendered scene and its average with noise on it, which makes edges of its own."""
    vi, ir = (to_tensor(x) for x in render_scene(seed, height=HEIGHT_PX, width=WIDTH_PX))
    noise = 0.02 * torch.randn(ir.shape, generator=torch.Generator().manual_seed(seed))
    return ((vi + ir) / 2 + noise).clamp(0, 1), vi, ir
