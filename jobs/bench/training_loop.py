"""What the training loop costs beside the arithmetic, and what a second worker brings.

Both sides of a ratio are measured in turn in one run, and the median of the pairs is printed, so that
neighbours on the machine disturb both alike. One thread a process, as on a worker.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import distributed
from torch.multiprocessing import spawn

from infra.settings import Settings
from jobs.bench.lines import Line, report_lines
from jobs.bench.model_speed import Setup, peak_mib
from jobs.bench.roofline import count_step, describe_step
from jobs.bench.shard_factory import rendered_scenes
from jobs.config import find_recipe, shrink_training
from jobs.console import print_facts, print_line, section
from jobs.recipes import DATASETS, TRAINING
from models.devices import all_sent
from pipelines.batches.decoding import to_floats
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.plan import plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.store.files import whole_folder
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import TrainingState, save_checkpoint
from pipelines.training.config import OptimConfig, TrainingConfig
from pipelines.training.loop import TrainingTask, run_training
from pipelines.training.objectives import make_objective
from pipelines.training.optimiser import check_replicas, start_state, train_step

# What is timed, and the published size whose checkpoints are timed.
_RECIPE, _PUBLISHED = "dspfusion_stage1_small", "dspfusion_stage1_full_1gpu"


class LoopSizes(BaseModel):
    """How much is measured; sides in pixels. A segment is the steps between two reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_scenes: int = 24
    height: int = 240
    width: int = 320
    segment_steps: int = 50
    rounds: int = 6
    worker_rounds: int = 4
    worker_steps: int = 60
    # Side of the crops of a step whose memory is measured; None leaves it out.
    memory_crop_px: int | None = 224


SMOKE = LoopSizes(
    num_scenes=8, height=48, width=64, segment_steps=2, rounds=2, worker_rounds=1, worker_steps=4,
    memory_crop_px=None,
)  # fmt: skip


def bench_train(settings: Settings, *, smoke: bool = False, device: str = "cpu") -> list[Line]:
    """Measure every line, print them, and write `<work>/bench/train.json`.

    On a GPU there are neither two workers nor the memory of a process. Beside the pace stands the least
    that a step of the recipe can take on an H100, counted (`jobs.bench.roofline`).
    """
    sizes = SMOKE if smoke else LoopSizes()
    torch.set_num_threads(1)
    work = settings.work / "bench" / ("train-smoke" if smoke else "train")
    section("Render scenes, write shards (once)")
    root, version = _dataset(work, sizes)
    config = _config(version, smoke=smoke)
    section("Measure")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=work) as scratch:
        loop, step_s = _loop_against_bare(config, version, root, sizes, Path(scratch), device)
        lines = [loop, _stall(config, step_s, Path(scratch), sizes.rounds, device)]
        if device == "cpu":
            lines.append(_two_workers(config, root, sizes, Path(scratch)))
        print_facts({"published network": _published_checkpoint(Path(scratch))})
        print_facts({f"a step here, on {device}": f"{1e3 * step_s:.1f} ms"} | _counted(config))
    if sizes.memory_crop_px and device == "cpu":
        lines += [_memory(part, sizes.memory_crop_px) for part in ("stage1", "stage2")]
    report_lines(lines, sizes, work.parent / ("train-smoke.json" if smoke else "train.json"))
    return lines


def _counted(config: TrainingConfig) -> dict[str, str]:
    size = config.optim.batch_size
    title, *bounds = describe_step("counted", count_step(config, batch_size=size), size)
    return {"a step, counted": title} | {f"bound {n}": line for n, line in enumerate(bounds, 1)}


def _dataset(work: Path, sizes: LoopSizes) -> tuple[LocalFolder, DatasetVersion]:
    scenes = rendered_scenes(work / "sources", "bench", sizes.num_scenes, sizes.height, sizes.width)
    root = LocalFolder(work / "datasets")
    config = find_recipe(DATASETS, "small").model_copy(update={"name": "bench"})
    shards = [write_shard(spec, root).info for spec in plan_shards(config, scenes)]
    return root, publish_version(root, config, scenes, shards, Made("bench", ""))


def _config(version: DatasetVersion, *, smoke: bool) -> TrainingConfig:
    recipe = find_recipe(TRAINING, _RECIPE)
    if smoke:
        recipe = shrink_training(recipe)
    # Steps are measured, not what looks at the model between them.
    looks = {"preview_every": None, "validation": None}
    return recipe.model_copy(update={"dataset": version.name, **looks})


def _with_steps(config: TrainingConfig, **optim: int) -> TrainingConfig:
    return config.model_copy(update={"optim": config.optim.model_copy(update=optim)})


def _loop_against_bare(
    config: TrainingConfig,
    version: DatasetVersion,
    root: LocalFolder,
    sizes: LoopSizes,
    scratch: Path,
    device: str,
) -> tuple[Line, float]:
    """Run the loop as it is; after each report take the bare steps of the batches it has just had.

    Returns the line, and the seconds of a step of the loop.
    """
    count = sizes.segment_steps
    config = _with_steps(config, num_steps=(sizes.rounds + 1) * count, log_every=count)
    optim = config.optim
    objective = make_objective(config).to(device)
    bare = start_state(objective, optim)
    batching = Batching(objective.FIELDS, optim.batch_size, optim.crop_px, optim.seed)
    batches = ShardBatches(version, root, batching)
    log = _logger(scratch)
    loop_s: list[float] = []
    bare_s: list[float] = []
    waited: list[float] = []
    begun_s = time.perf_counter()

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        nonlocal begun_s
        log([dict(metrics)])
        if folder:
            _keep(folder, scratch / "kept")
        # A checkpoint comes between two reports, or after one of the same step.
        if metrics["step"] != (len(loop_s) + 1) * count:
            return
        loop_s.append(time.perf_counter() - begun_s)
        waited.append(metrics["data_wait_share"])
        last_step = int(metrics["step"])
        bare_s.append(bare_seconds(bare, batches, optim, last_step=last_step))
        begun_s = time.perf_counter()

    _alone_in_a_group(config, root, report, scratch, device)
    # The first segment opens the shards.
    ratios = [bare / loop for bare, loop in zip(bare_s[1:], loop_s[1:], strict=True)]
    detail = f"{_span(ratios)}; waiting for data {statistics.median(waited[1:]):.1%} of the time"
    return (
        Line("loop rate / bare step rate", statistics.median(ratios), 0.95, True, detail),
        statistics.median(loop_s[1:]) / count,
    )


def _logger(folder: Path) -> Callable[[list[dict[str, Any]]], None]:
    """As the controller logs; there it is another process, so this is an upper bound.

    A borrowed GPU machine has no MLflow; there nothing is logged, and a line says so.
    """
    try:
        from infra.registry import tracking
        from infra.registry.report_log import ReportLogger
    except ModuleNotFoundError as absent:
        print_line(f"  without logging: {absent.name} is not installed")
        return lambda reports: None
    settings = Settings(
        work=folder,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        artifact_root=f"{folder}/artifacts",
        ray_address=None,
    )
    client = tracking.connect(settings)
    run_id = tracking.open_run(client, name="bench", config={}, tags={}).info.run_id
    return ReportLogger(settings.tracking_uri, run_id, LocalFolder(folder))


def _alone_in_a_group(
    config: TrainingConfig, root: LocalFolder, report: Any, scratch: Path, device: str
) -> None:
    """Run the loop in this process, with DDP, as the only member of its group."""
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, f"file://{scratch}/alone", rank=0, world_size=1)
    try:
        run_training(
            TrainingTask(config, root),
            rank=0,
            world_size=1,
            device=device,
            resume=[],
            report=report,
        )
    finally:
        distributed.destroy_process_group()


def bare_seconds(
    bare: TrainingState,
    batches: ShardBatches,
    optim: OptimConfig,
    *,
    last_step: int,
) -> float:
    """Seconds of the steps that end with `last_step`, at the loop's rates, their batches in memory."""
    steps = range(last_step - optim.log_every, last_step)
    device = next(bare.model.parameters()).device
    held = [to_floats(all_sent(batches.batch(step), device)) for step in steps]
    begun_s = time.perf_counter()
    for step, batch in zip(steps, held, strict=True):
        loss = train_step(bare.model, bare, [batch], optim, step=step)["loss"]
    float(loss)  # waits for a GPU
    return time.perf_counter() - begun_s


def _keep(folder: Path, kept: Path) -> None:
    """Copy a checkpoint to where it stays, as Ray Train does."""
    with whole_folder(kept / str(time.monotonic_ns())) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)


def _stall(config: TrainingConfig, step_s: float, scratch: Path, rounds: int, device: str) -> Line:
    """The share of the recipe's time in which steps wait for a checkpoint."""
    state = _state_with_moments(make_objective(config).to(device), config.optim)
    seconds = [_checkpoint_seconds(state, scratch) for _ in range(rounds)]
    every = config.optim.checkpoint_every
    stall_s = statistics.median(seconds)
    share = stall_s / (stall_s + every * step_s)
    detail = f"{1000 * stall_s:.0f} ms every {every} steps of {1000 * step_s:.0f} ms"
    return Line("checkpoint stall share", share, 0.01, False, detail)


def _state_with_moments(objective: Any, optim: OptimConfig) -> TrainingState:
    state = start_state(objective, optim)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    return state


def _checkpoint_seconds(state: TrainingState, scratch: Path) -> float:
    begun_s = time.perf_counter()
    check_replicas(state.model)
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        save_checkpoint(Path(folder), state, step=1, config_json="{}")
        _keep(Path(folder), scratch / "stalled")
    return time.perf_counter() - begun_s


def _published_checkpoint(scratch: Path) -> str:
    """How long a checkpoint of the published network takes, and how far apart that lets them be."""
    state = _state_with_moments(
        make_objective(find_recipe(TRAINING, _PUBLISHED)), OptimConfig(num_steps=1)
    )
    seconds = statistics.median(_checkpoint_seconds(state, scratch) for _ in range(3))
    return f"a checkpoint takes {seconds:.2f} s: 1 % where they are {100 * seconds:.0f} s apart"


def _two_workers(
    config: TrainingConfig, root: LocalFolder, sizes: LoopSizes, scratch: Path
) -> Line:
    """Samples a second of two gloo workers over those of one, in turn."""
    steps = sizes.worker_steps
    config = _with_steps(
        config, num_steps=steps, log_every=max(steps // 4, 1), checkpoint_every=steps
    )
    ratios = []
    for index in range(sizes.worker_rounds):
        rates = [
            _samples_per_s(config, root, scratch / f"workers-{index}-{count}", count)
            for count in (1, 2)
        ]
        ratios.append(rates[1] / rates[0])
    detail = f"{_span(ratios)}; {rates[0]:.1f} samples/s with one"
    name = "2 gloo workers / 1, samples per second"
    return Line(name, statistics.median(ratios), 1.6, True, detail)


def _samples_per_s(
    config: TrainingConfig, root: LocalFolder, folder: Path, world_size: int
) -> float:
    folder.mkdir()
    # As many samples a worker, whatever the number of workers.
    task = TrainingTask(config.model_copy(update={"num_workers": world_size}), root)
    spawn(_train_rank, (world_size, task, folder), nprocs=world_size)
    # The first window opens the shards.
    return sum(
        statistics.median(json.loads(path.read_text())[1:]) for path in folder.glob("rank-*")
    )


def _train_rank(rank: int, world_size: int, task: TrainingTask, folder: Path) -> None:
    """Train as one of the workers, and write down the samples a second of each report."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    rates = []
    run_training(
        task,
        rank=rank,
        world_size=world_size,
        device="cpu",
        resume=[],
        report=lambda metrics, _: rates.append(metrics["samples_per_s"]),
    )
    (folder / f"rank-{rank}").write_text(json.dumps(rates))
    distributed.destroy_process_group()


def _memory(part: Any, crop_px: int) -> Line:
    """Peak memory of a step over that of the plain build, as `jobs.bench model` measures it."""
    ours, plain = (peak_mib("dspfusion", part, side, Setup(crop_px)) for side in ("ours", "plain"))
    detail = f"{ours:.0f} MiB, plain {plain:.0f} MiB; crop {crop_px}"
    return Line(f"memory of a {part} step / plain", ours / plain, 0.6, False, detail)


def _span(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs"
