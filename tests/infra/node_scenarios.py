"""python -m tests.infra.node_scenarios NAME FOLDER: clusters whose nodes come and go, in a process of
their own, because this one may hold the session's cluster. Writes what it saw as JSON, last."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.cluster_utils import Cluster
from ray.util import get_node_ip_address

from infra.cluster import nodes
from infra.cluster.connect import connected
from infra.cluster.ddp import run_ddp
from infra.cluster.run_folder import fetched_checkpoint
from infra.cluster.tasks import map_actors, map_tasks
from infra.settings import Settings
from tests.infra import ray_workloads
from tests.ray_head import free_port, kill_remaining
from tests.settings import embedded_settings

_PATIENCE_S = 300.0


@contextmanager
def _several_nodes(
    folder: Path, head: dict[str, Any] | None = None, **changes: Any
) -> Iterator[tuple[Cluster, Settings]]:
    """A head without CPUs, and settings to reach it by.

    The code is not sent: nodes of one machine have one folder for it, which each empties when it joins
    (Ray 2.60 unpacks a working_dir anew), under the others' imports. Workers have this process's path.
    """
    # A dashboard is eight more processes, which on a busy machine exceed Ray's timeouts.
    options = {"num_cpus": 0, "include_dashboard": False, **(head or {})}
    nodes_of = Cluster(initialize_head=True, head_node_args=options)
    settings = embedded_settings(folder).model_copy(
        update={"ray_address": nodes_of.address, "in_ray_job": True, **changes}
    )
    try:
        with connected(settings):
            yield nodes_of, settings
    finally:
        nodes_of.shutdown()


def _wait_until(happened: Callable[[], Any], running: Future[Any], what: str) -> None:
    """Wait for what the work that runs brings about; its error is raised here."""
    deadline = time.monotonic() + _PATIENCE_S
    while not happened():
        if running.done():
            running.result()
            raise AssertionError(f"ended before: {what}")
        assert time.monotonic() < deadline, f"not in {_PATIENCE_S} s: {what}"
        time.sleep(0.2)


def work(folder: Path) -> dict[str, Any]:
    """Tasks, then actors, on one cluster that has no CPU at first."""
    with _several_nodes(folder) as (several, _), ThreadPoolExecutor() as threads:
        saw = {"tasks": _tasks(several, folder / "hurry-tasks", threads)}
        stays, leaves = several.worker_nodes
        several.remove_node(leaves, allow_graceful=False)
        return saw | {"actors": _actors(several, stays, folder / "hurry-actors", threads)}


def _tasks(several: Cluster, hurry: Path, threads: ThreadPoolExecutor) -> dict[str, Any]:
    """Tasks before there is a CPU, then on one node, then on two."""
    found: list[str] = []
    running = threads.submit(
        lambda: found.extend(map_tasks(ray_workloads.node_of, range(200), str(hurry)))
    )
    time.sleep(8)
    several.add_node(num_cpus=1)
    _wait_until(lambda: len(found) > 4, running, "tasks on the first node")
    several.add_node(num_cpus=1)
    saw: dict[str, Any] = {"joined_at": len(found)}
    _wait_until(lambda: len(set(found)) == 2, running, "tasks on the second node")
    saw |= {"followed_at": len(found)}
    hurry.touch()
    running.result(timeout=_PATIENCE_S)
    return saw | {"done": len(found), "nodes": len(set(found))}


def _actors(
    several: Cluster, first: Any, hurry: Path, threads: ThreadPoolExecutor
) -> dict[str, Any]:
    """More actors than there is room for on `first`; a node joins and this one leaves."""
    found: list[tuple[int, str]] = []
    running = threads.submit(
        lambda: found.extend(
            map_actors(ray_workloads.Located, range(200), str(hurry), num_actors=64)
        )
    )
    _wait_until(lambda: len(found) > 4, running, "calls on the first node")
    several.add_node(num_cpus=1)
    _wait_until(lambda: len({node for _, node in found}) == 2, running, "calls on the second node")
    left_at = len(found)
    several.remove_node(first, allow_graceful=False)
    hurry.touch()
    running.result(timeout=_PATIENCE_S)
    return {"left_at": left_at, "done": sorted(item for item, _ in found)}


def training(folder: Path) -> dict[str, Any]:
    """Two workers on two nodes: one comes back after `AWAY_S`; of another training it does not."""
    with _several_nodes(folder) as (several, settings), ThreadPoolExecutor() as threads:
        several.add_node(num_cpus=1)
        several.add_node(num_cpus=1)
        running = _less_a_node(several, settings, folder, threads, num_steps=20, until=8)
        time.sleep(float(os.environ["AWAY_S"]))
        several.add_node(num_cpus=1)
        with fetched_checkpoint(running.result(timeout=_PATIENCE_S)) as kept:
            step = int((kept / "step").read_text())
        starts = [int(path.read_text()) for path in folder.glob("started-*")]
        settings = settings.model_copy(update={"node_wait_s": 5.0})
        other = folder / "other"
        other.mkdir()
        running = _less_a_node(several, settings, other, threads, num_steps=1000, until=2)
        error = running.exception(timeout=_PATIENCE_S)
    return {"step": step, "starts": sorted(starts), "error": f"{type(error).__name__}: {error}"}


def _less_a_node(
    several: Cluster,
    settings: Settings,
    folder: Path,
    threads: ThreadPoolExecutor,
    **steps: int,
) -> Future[Any]:
    """Start a training of `num_steps`; take one of its two nodes away after step `until`."""
    (folder / "died").touch()  # the workload's own fault is not wanted
    payload = {"folder": str(folder), "num_steps": steps["num_steps"]}
    running = threads.submit(
        run_ddp,
        partial(ray_workloads.count_steps, payload),
        name=folder.name,
        settings=settings,
        num_workers=2,
        resources={"CPU": 1},
        on_report=ray_workloads.Silent(),
    )
    _wait_until(lambda: list(folder.glob(f"scratch-{steps['until']}-*")), running, "steps")
    several.remove_node(next(iter(several.worker_nodes)), allow_graceful=False)
    return running


@contextmanager
def _growing(folder: Path) -> Iterator[tuple[Cluster, Settings]]:
    """A head without CPUs, and Ray's autoscaler, which starts nodes of one CPU here, two at most."""
    port = free_port()
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(_autoscaling(f"{get_node_ip_address()}:{port}")))
    # What `ray up` gives a head, besides the first three, which are for nodes of this kind.
    os.environ |= {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    with _several_nodes(
        folder,
        {"autoscaling_config": str(path), "gcs_server_port": port},
        node_wait_s=_PATIENCE_S,
    ) as found:
        try:
            yield found
        finally:
            added = psutil.Process().children(recursive=True)
    # The nodes that were added are the autoscaler's children, and would wait a minute for the head.
    kill_remaining(added, after_s=0)


def _autoscaling(gcs_address: str) -> dict[str, Any]:
    kinds = ("initialization", "setup", "head_setup", "worker_setup")
    starts = ("head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fusion",
        "max_workers": 2,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 10,
        "provider": {
            # By its class, because the wheel lacks the defaults of the type "fake_multinode".
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": gcs_address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{f"{kind}_commands": [] for kind in (*kinds, *starts)},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def autoscaler(folder: Path) -> dict[str, Any]:
    """A cluster that has no CPU and an autoscaler, which adds two at most."""
    with _growing(folder):
        saw: dict[str, Any] = {"grows": nodes.has_autoscaler(), "cpus": nodes.count_resource("CPU")}
        started = time.monotonic()
        try:
            nodes.wait_for_resources(9, "CPU", timeout_s=_PATIENCE_S)
        except ValueError as error:
            saw |= {"refused": str(error), "waited": time.monotonic() - started >= _PATIENCE_S}
        hurry = folder / "hurry"
        found: list[str] = []
        for node in map_tasks(ray_workloads.node_of, range(200), str(hurry)):
            found.append(node)
            if len(set(found)) == 2:
                hurry.touch()
        saw |= {"done": len(found), "nodes": len(set(found))}
        nodes.wait_for_resources(2, "CPU", timeout_s=_PATIENCE_S)
        return saw | {"cpus_after": nodes.count_resource("CPU")}


if __name__ == "__main__":
    scenarios = {scenario.__name__: scenario for scenario in (work, training, autoscaler)}
    saw = scenarios[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
    sys.stdout.write(f"{json.dumps(saw)}\n")
