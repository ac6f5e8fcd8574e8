"""The planner against what happens: a forecast beside real runs, and a plan of a million scenes.

The forecast is made, in turn with the runs, from a few scenes on this machine. Its seconds of CPU are
compared with the runs' seconds of CPU, which neighbours on the cores hardly change, and its clock with
the runs' clock, which means something on a machine that is otherwise quiet.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict

from infra.cluster.connect import connected
from infra.cluster.tasks import map_tasks
from infra.settings import Settings
from jobs.bench.shard_factory import made_up_scene, rendered_scenes
from jobs.config import find_recipe
from jobs.console import print_facts, print_line, section
from jobs.locations import source_reader
from jobs.recipes import DATASETS
from jobs.scan.run import load_index
from pipelines.datasets.forecast import SceneCost, calibrate, forecast
from pipelines.datasets.group_index import write_group_rows
from pipelines.datasets.plan import DatasetConfig, ShardPlan, plan_shards
from pipelines.datasets.shards.markers import ShardInfo, marker_of, tar_of
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import Made, manifest_of, publish_version, split_reuse
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.files import write_whole
from pipelines.store.folders import LocalFolder
from pipelines.training.process_memory import own_peak_mib

_ROUNDS = 3
_NUM_CORES = (1, 2)
# Shards on every core, so that the last one does not decide.
_SHARDS_PER_CORE = 4
_MOST_OFF = 0.2
# Below this the clock measures other processes rather than the forecast.
_LEAST_SHARE = 0.9
_MOST_PLAN_S = 60.0
_MOST_PLAN_MIB = 2048.0
_BATCH = 20_000


class Run(BaseModel):
    """A forecast and the run that it was for; seconds. `share` is of a core, that its tasks got."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cores: int
    forecast_clock_s: float
    clock_s: float
    forecast_core_s: float
    core_s: float
    forecast_bytes: float
    num_bytes: int
    share: float


class Simulation(BaseModel):
    """What a plan of many scenes takes of a driver."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_scenes: int
    num_shards: int
    plan_cpu_s: float
    plan_clock_s: float
    publish_cpu_s: float
    manifest_mib: float
    peak_mib: float


def bench_plan(
    settings: Settings, *, scenes: str | None, recipe: str, num_planned: int, smoke: bool
) -> tuple[list[Run], Simulation]:
    """Run both parts, print them, and write `<work>/bench/plan.json`."""
    # As on a worker: idle OpenMP threads spin, and their CPU seconds would be counted.
    torch.set_num_threads(1)
    work = settings.work / "bench" / ("plan-smoke" if smoke else "plan")
    section("Plan many scenes")
    simulation = simulate(100 if smoke else num_planned)
    _print_simulation(simulation)
    section("Forecast and run, in turn")
    size = (8, 48, 64) if smoke else (64, 480, 640)
    table: Sequence[Scene] = (
        load_index(settings, scenes).scenes
        if scenes
        else rendered_scenes(work / "sources", "bench", *size)
    )
    config = find_recipe(DATASETS, recipe)
    # A shard for every core, several times; but none so small that it holds no group.
    most = max(len(table) // (_SHARDS_PER_CORE * max(_NUM_CORES)), config.shard.num_positives + 1)
    plan = plan_shards(config.model_copy(update={"scenes_per_shard": most}), table)
    runs = check_forecasts(plan, settings, rounds=1 if smoke else _ROUNDS)
    _print_runs(runs)
    path = settings.work / "bench" / ("plan-smoke.json" if smoke else "plan.json")
    results = {"simulation": simulation.model_dump(), "runs": [run.model_dump() for run in runs]}
    write_whole(path, json.dumps(results, indent=1).encode())
    print_facts({"results": str(path)})
    return runs, simulation


def check_forecasts(plan: ShardPlan, settings: Settings, *, rounds: int) -> list[Run]:
    """A forecast, a run on one core, a run on two; and again."""
    read = source_reader(settings)
    runs: list[Run] = []
    with connected(settings), TemporaryDirectory(prefix="bench-plan-") as folder:
        warm = LocalFolder(Path(folder) / "warm")
        list(map_tasks(write_shard, plan[: max(_NUM_CORES)], warm, read))
        for index in range(rounds):
            for num_cores in _NUM_CORES:
                cost = calibrate(plan, read)
                root = LocalFolder(Path(folder) / f"{index}-{num_cores}")
                runs.append(_run(plan, cost, root, num_cores, settings))
    return runs


def _run(
    plan: ShardPlan, cost: SceneCost, root: LocalFolder, num_cores: int, settings: Settings
) -> Run:
    ahead = forecast(plan, cost, num_cores)
    started_s = time.perf_counter()
    # As many tasks at a time as cores: the others of this machine stay out of it.
    shards = list(
        map_tasks(write_shard, plan, root, source_reader(settings), max_in_flight=num_cores)
    )
    core_s = sum(shard.cpu_s for shard in shards)
    return Run(
        num_cores=num_cores,
        forecast_clock_s=ahead.clock_s,
        clock_s=time.perf_counter() - started_s,
        forecast_core_s=ahead.core_s,
        core_s=core_s,
        forecast_bytes=ahead.num_bytes,
        num_bytes=sum(shard.info.num_bytes for shard in shards),
        share=core_s / sum(shard.clock_s for shard in shards),
    )


def _print_runs(runs: list[Run]) -> None:
    print_line(
        "  cores  clock: forecast, run, ratio   CPU: forecast, run, ratio   bytes: ratio   a task's share"
    )
    for run in runs:
        print_line(
            f"  {run.num_cores:5}  {run.forecast_clock_s:15.1f} {run.clock_s:6.1f} "
            f"{run.clock_s / run.forecast_clock_s:6.2f}   {run.forecast_core_s:13.1f} "
            f"{run.core_s:6.1f} {run.core_s / run.forecast_core_s:6.2f}   "
            f"{run.num_bytes / run.forecast_bytes:12.3f}   {run.share:10.0%} of a core"
        )
    for num_cores in _NUM_CORES:
        mine = [run for run in runs if run.num_cores == num_cores]
        ratios = {
            "CPU": median(run.core_s / run.forecast_core_s for run in mine),
            "bytes": median(run.num_bytes / run.forecast_bytes for run in mine),
            "clock": median(run.clock_s / run.forecast_clock_s for run in mine),
        }
        quiet = median(run.share for run in mine) >= _LEAST_SHARE
        for name, ratio in ratios.items():
            word = "holds" if abs(ratio - 1) <= _MOST_OFF else "MISSED"
            word = word if quiet or name != "clock" else "busy"
            print_line(
                f"  {word:<6}  {num_cores} cores, {name}: {ratio:.2f} of the forecast (within 20 %)"
            )
        if not quiet:
            print_line(
                "          (others had the cores: the clock is to be measured when they are quiet)"
            )


def simulate(num_scenes: int) -> Simulation:
    """Plan and publish made-up scenes in a process of its own, whose memory is then its own too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(plan_and_publish, num_scenes).result()


def plan_and_publish(num_scenes: int) -> Simulation:
    """What a driver does before and after the shards are made; the shards are empty files."""
    config = DatasetConfig(name="planned")
    table = _made_up_table(num_scenes)
    with TemporaryDirectory(prefix="bench-plan-") as folder:
        root = LocalFolder(Path(folder))
        cpu_s, clock_s = time.process_time(), time.perf_counter()
        _, to_build = split_reuse(plan_shards(config, table), root)
        plan_cpu_s, plan_clock_s = time.process_time() - cpu_s, time.perf_counter() - clock_s
        shards = [_empty_shard(name, root) for name in to_build.names()]
        cpu_s = time.process_time()
        version = publish_version(root, config, table, shards, Made("bench", ""))
        publish_cpu_s = time.process_time() - cpu_s
        manifest = root.size_of(manifest_of(version.name))
    assert manifest is not None
    return Simulation(
        num_scenes=num_scenes,
        num_shards=len(to_build),
        plan_cpu_s=plan_cpu_s,
        plan_clock_s=plan_clock_s,
        publish_cpu_s=publish_cpu_s,
        manifest_mib=manifest / 2**20,
        peak_mib=own_peak_mib(),
    )


def _made_up_table(num_scenes: int) -> SceneTable:
    def batches() -> Iterator[pa.Table]:
        scenes = map(made_up_scene, range(num_scenes))
        # An index is read from a file; rows that are Python objects all at once would be most of the peak.
        while batch := list(islice(scenes, _BATCH)):
            yield SceneTable.of(batch).table

    return SceneTable(pa.concat_tables(batches()))


def _empty_shard(name: str, root: LocalFolder) -> ShardInfo:
    counts = {
        "num_bytes": 0,
        "num_scenes": 46,
        "num_groups": 500,
        "num_images": 900,
        "libraries": (),
    }
    info = ShardInfo(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), **counts)
    write_group_rows(root, name, ())
    for member, data in ((tar_of(name), b""), (marker_of(name), info.model_dump_json().encode())):
        path = root.path / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return info


def _print_simulation(found: Simulation) -> None:
    print_facts(
        {
            "scenes": f"{found.num_scenes:,} in {found.num_shards:,} shards",
            "manifest": f"{found.manifest_mib:.1f} MiB",
            "publishing": f"{found.publish_cpu_s:.1f} s of CPU",
        }
    )
    for name, value, most, unit in (
        ("plan, and which shards exist", found.plan_cpu_s, _MOST_PLAN_S, "s of CPU"),
        ("driver's peak memory", found.peak_mib, _MOST_PLAN_MIB, "MiB"),
    ):
        word = "holds" if value <= most else "MISSED"
        print_line(f"  {word:<6}  {name}: {value:.4g} {unit} (<= {most:g})")
    print_line(f"          (by the clock, with neighbours: {found.plan_clock_s:.1f} s)")
