"""A system's networks against a plain build of the same mathematics.

Both sides lie with the system's tests, `tests.models.<system>.bench_sides`: the plain build is what holds
the networks there, and nothing but this bench needs it besides.

Seconds are CPU time of one thread, both sides in turn in one process, the median of the repeats
after a warm-up; peak memory is a process of its own for each side. On a GPU they are seconds until it is
done, and what a run adds to its memory. Both sides hold the same weights.
The row of bf16 is followed by its PSNR against float32 on real pairs, where some are given.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from jobs.console import print_line
from models import find_system
from models.system import FuseOptions, Precision, System
from pipelines.bundles.fusing import find_fusable
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import read_pair
from pipelines.training.process_memory import own_peak_mib

Side = Literal["ours", "plain"]
_TOP_KERNELS = 10


@dataclass(frozen=True)
class Setup:
    """Size, device and batch of what is measured (None: one picture, two samples of a step)."""

    crop_px: int = 224
    device: str = "cpu"
    batch_size: int | None = None


# Takes one step or fuses one pair; returns what both sides have to agree in.
Work = Callable[[], Tensor]

HEIGHT_PX, WIDTH_PX = 480, 640
REAL_PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ivif" / "msrs" / "val"
NUM_REAL_PAIRS = 3


def bench_sides(system: str) -> Any:
    """The module of a system's two sides. Raises ValueError for a system without."""
    try:
        return import_module(f"tests.models.{system}.bench_sides")
    except ModuleNotFoundError as error:
        raise ValueError(f"--system {system}: no plain build of it lies in tests/models") from error


def compare(system: str, part: str, *, repeats: int, setup: Setup) -> str:
    """Measure both sides of a part; return its line of the table."""
    sides = bench_sides(system)
    works = {side: sides.make_work(part, side, setup) for side in get_args(Side)}
    first = {side: work() for side, work in works.items()}
    difference = first["ours"] - first["plain"]
    # An image is worth its PSNR, too; a loss is one number.
    psnr = f"{-10 * float(difference.square().mean().log10()):8.1f}" if difference.dim() else ""
    seconds: dict[str, list[float]] = {side: [] for side in works}
    for _ in range(repeats):
        for side, work in works.items():
            seconds[side].append(seconds_of(work, setup.device))
    ours, plain = (statistics.median(seconds[side]) for side in get_args(Side))
    largest = float(difference.abs().max())
    ours_mib, plain_mib = (
        gpu_mib(works[side]) if setup.device == "cuda" else peak_mib(system, part, side, setup)
        for side in get_args(Side)
    )
    return (
        f"{part:<14} {plain:8.4f} {ours:8.4f} {plain / ours:7.2f}x "
        f"{plain_mib:9.0f} {ours_mib:9.0f} {ours_mib / plain_mib:7.2f} {largest:12.1e} {psnr}"
    )


def seconds_of(work: Work, device: str) -> float:
    """CPU time of the work; on a GPU the time until it has done it."""
    if device != "cuda":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def gpu_mib(work: Work) -> float:
    """What the work adds to the memory of the GPU at its peak: weights lie there already."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def peak_mib(system: str, part: str, side: Side, setup: Setup) -> float:
    """Peak resident memory of a process that does the work once on the CPU, weights included."""
    command = [sys.executable, "-m", "jobs.bench", "model", "--peak", part, side]
    command += ["--system", system, "--crop", str(setup.crop_px), "--device", "cpu"]
    command += ["--batch", str(setup.batch_size)] if setup.batch_size else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"measuring {part} {side} failed: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def describe_bf16(system: System, fuser: nn.Module, folder: Path) -> str:
    """Say the PSNR of a fuser in bf16 against itself in float32 on the first pairs of a folder.

    `folder` holds vi/ and ir/; where it does not exist a random picture serves, and the line says so.
    """
    if folder.is_dir():
        found = find_fusable(folder / "vi", folder / "ir")[0][:NUM_REAL_PAIRS]
        pairs = {
            Path(pair.name).stem: tuple(map(to_tensor, read_pair(pair.vi_uri, pair.ir_uri)))
            for pair in found
        }
        where = f"real pairs of {folder.parent.name}/{folder.name}"
    else:
        generator = torch.Generator().manual_seed(1)
        vi, ir = (torch.rand(1, c, HEIGHT_PX, WIDTH_PX, generator=generator) for c in (3, 1))
        pairs = {"random": (vi, ir)}
        where = f"a random picture, for want of {folder}"
    each = [f"{name} {_bf16_psnr_db(system, fuser, *pair):.1f}" for name, pair in pairs.items()]
    return f"           bf16 against float32, PSNR in dB on {where}: {', '.join(each)}"


@torch.inference_mode()
def _bf16_psnr_db(system: System, fuser: nn.Module, vi: Tensor, ir: Tensor) -> float:
    precise, rounded = (
        system.prepare(fuser, FuseOptions(precision=precision))(vi, ir).fused
        for precision in get_args(Precision)
    )
    return -10 * float((rounded - precise).square().mean().log10())


def bench_model(
    system: str,
    parts: Sequence[str],
    *,
    repeats: int,
    setup: Setup,
    pairs: Path = REAL_PAIRS,
    profiled: bool = False,
) -> None:
    """Print a line for each part, and for bf16 on a CPU a second one, on `pairs`.

    With `profiled` the kernels that take longest in our side of the last part follow.
    """
    torch.set_num_threads(1)
    print_line(_describe_setup(system, setup))
    print_line(
        "part            plain s   ours s  faster plain MiB  ours MiB   share   difference  PSNR dB"
    )
    for part in parts:
        print_line(compare(system, part, repeats=repeats, setup=setup))
        if part == "bf16" and setup.device == "cpu":
            print_line(
                describe_bf16(find_system(system), bench_sides(system).filled_fuser(), pairs)
            )
    if profiled:
        print_line(top_kernels(bench_sides(system).make_work(parts[-1], "ours", setup), setup))


def _describe_setup(system: str, setup: Setup) -> str:
    where = torch.cuda.get_device_name() if setup.device == "cuda" else "1 thread"
    size = setup.batch_size
    return (
        f"{size or 1} {WIDTH_PX}x{HEIGHT_PX} pair(s), float32, {where}; "
        f"steps: batch {size or bench_sides(system).BATCH_SIZE}, "
        f"crop {setup.crop_px}; torch {torch.__version__}"
    )


def top_kernels(work: Work, setup: Setup) -> str:
    """The kernels that take longest, by torch's profiler, after a run that warms up."""
    work()
    is_cuda = setup.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as profiler:
        work()
    column = f"self_{setup.device}_time_total"
    table: str = profiler.key_averages().table(sort_by=column, row_limit=_TOP_KERNELS)
    return table


def print_own_peak(system: str, part: str, side: Side, setup: Setup) -> None:
    """Do one side's work once in this process and print the memory that it took."""
    torch.set_num_threads(1)
    bench_sides(system).make_work(part, side, setup)()
    print_line(json.dumps({"peak_mib": own_peak_mib()}))
