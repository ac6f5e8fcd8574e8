"""python -m tests.infra.node_scenarios NAME FOLDER: clusters whose nodes come and go, in a process of
their own, because this one may hold the session's cluster. Writes what it saw as JSON, last."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from infra import cluster, nodes
from infra.settings import Settings
from tests.infra import ray_workloads
from tests.infra.log_workload import Silent
from tests.settings import embedded_settings

_PATIENCE_S = 300.0


@contextmanager
def _several_nodes(folder: Path, **changes: Any) -> Iterator[tuple[Cluster, Settings]]:
    """A head without CPUs, and settings to reach it by."""
    nodes_of = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    settings = embedded_settings(folder).model_copy(
        update={"ray_address": nodes_of.address, **changes}
    )
    try:
        with cluster.connected(settings):
            yield nodes_of, settings
    finally:
        nodes_of.shutdown()


def _wait_until(happened: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"not in {_PATIENCE_S} s: {what}"
        time.sleep(0.2)


def tasks(folder: Path) -> dict[str, Any]:
    """Tasks before there is a CPU, then on one node, then on two."""
    with _several_nodes(folder) as (several, _), ThreadPoolExecutor() as threads:
        found: list[tuple[str, float]] = []
        running = threads.submit(
            lambda: found.extend(cluster.map_tasks(ray_workloads.node_and_time, range(60), 0.5))
        )
        time.sleep(8)
        several.add_node(num_cpus=1)
        _wait_until(lambda: len(found) > 4, "tasks on the first node")
        several.add_node(num_cpus=1)
        joined = time.time()
        running.result(timeout=_PATIENCE_S)
        starts = {name: min(s for node, s in found if node == name) for name, _ in found}
        return {
            "done": len(found),
            "nodes": len(starts),
            "first_on_the_second_s": max(starts.values()) - joined,
        }


def actors(folder: Path) -> dict[str, Any]:
    """More actors than there is room for; a node joins and a node leaves."""
    with _several_nodes(folder) as (several, _), ThreadPoolExecutor() as threads:
        first = several.add_node(num_cpus=1)
        found: list[tuple[int, tuple[str, float]]] = []
        running = threads.submit(
            lambda: found.extend(
                cluster.map_actors(ray_workloads.Located, range(60), 0.5, num_actors=64)
            )
        )
        _wait_until(lambda: len(found) > 4, "calls on the first node")
        several.add_node(num_cpus=1)
        _wait_until(lambda: len({node for _, (node, _) in found}) == 2, "calls on the second node")
        left_at = len(found)
        several.remove_node(first, allow_graceful=False)
        running.result(timeout=_PATIENCE_S)
        return {"left_at": left_at, "done": sorted(item for item, _ in found)}


def training(folder: Path) -> dict[str, Any]:
    """Two workers on two nodes, one of which goes and comes back after `AWAY_S`."""
    (folder / "died").touch()  # the workload's own fault is not wanted
    payload = {"folder": str(folder), "num_steps": 20}
    with _several_nodes(folder) as (several, settings), ThreadPoolExecutor() as threads:
        several.add_node(num_cpus=1)
        second = several.add_node(num_cpus=1)
        running = threads.submit(
            cluster.run_ddp,
            ray_workloads.count_steps,
            payload,
            name="run",
            settings=settings,
            num_workers=2,
            use_gpu=False,
            on_report=Silent(),
        )
        _wait_until(lambda: list(folder.glob("scratch-8-*")) or running.done(), "step 8")
        several.remove_node(second, allow_graceful=False)
        time.sleep(float(os.environ["AWAY_S"]))
        several.add_node(num_cpus=1)
        with cluster.fetched(running.result(timeout=_PATIENCE_S)) as kept:
            step = int((kept / "step").read_text())
        starts = [int(path.read_text()) for path in folder.glob("started-*")]
        return {"step": step, "starts": sorted(starts)}


def lost(folder: Path) -> dict[str, Any]:
    """As before, but the node does not come back."""
    (folder / "died").touch()
    payload = {"folder": str(folder), "num_steps": 1000}
    with (
        _several_nodes(folder, node_wait_s=5.0) as (several, settings),
        ThreadPoolExecutor() as threads,
    ):
        several.add_node(num_cpus=1)
        second = several.add_node(num_cpus=1)
        running = threads.submit(
            cluster.run_ddp,
            ray_workloads.count_steps,
            payload,
            name="run",
            settings=settings,
            num_workers=2,
            use_gpu=False,
            on_report=Silent(),
        )
        _wait_until(lambda: list(folder.glob("scratch-2-*")) or running.done(), "step 2")
        several.remove_node(second, allow_graceful=False)
        error = running.exception(timeout=_PATIENCE_S)
        return {"error": f"{type(error).__name__}: {error}"}


def autoscaler(folder: Path) -> dict[str, Any]:
    """A cluster at RAY_ADDRESS that has no CPU and an autoscaler, which adds two at most."""
    settings = embedded_settings(folder).model_copy(
        update={"ray_address": os.environ["RAY_ADDRESS"], "node_wait_s": _PATIENCE_S}
    )
    with cluster.connected(settings):
        saw: dict[str, Any] = {"grows": nodes.grows(), "cpus": nodes.count("CPU")}
        started = time.monotonic()
        try:
            nodes.make_room(9, "CPU", wait_s=_PATIENCE_S)
        except ValueError as error:
            saw |= {"refused": str(error), "refused_s": time.monotonic() - started}
        found = list(cluster.map_tasks(ray_workloads.node_and_time, range(8), 2.0))
        saw |= {"done": len(found), "nodes": len({node for node, _ in found})}
        nodes.make_room(2, "CPU", wait_s=_PATIENCE_S)
        return saw | {"cpus_after": nodes.count("CPU")}


if __name__ == "__main__":
    scenarios = {
        scenario.__name__: scenario for scenario in (tasks, actors, training, lost, autoscaler)
    }
    saw = scenarios[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
    sys.stdout.write(f"{json.dumps(saw)}\n")
