"""Nodes that come and go: real clusters of several nodes, and Ray's own autoscaler with nodes that are
processes of this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import nodes
from infra.settings import REPOSITORY, Settings

# What a scenario saw, and what was told meanwhile.
Saw = tuple[dict[str, Any], str]


def run_scenario(name: str, folder: Path, **variables: str) -> Saw:
    """Run one in a process of its own."""
    command = [sys.executable, "-m", "tests.infra.node_scenarios", name, str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment | {"RAY_AUTH_MODE": "disabled"} | variables,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.ray
def test_the_session_s_cluster_does_not_grow(ray_settings: Settings) -> None:
    assert not nodes.has_autoscaler()
    assert nodes.count_resource("CPU") == 2
    assert nodes.count_resource("GPU") == 0


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Saw]]:
    """A training whose node comes back after a minute, then one whose does not; beside other tests."""
    folder = tmp_path_factory.mktemp("away")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(run_scenario, "training", folder, AWAY_S="65")
        # After this step its node is taken away.
        while not running.done() and not list(folder.glob("scratch-8-*")):
            time.sleep(0.5)
        yield running


@pytest.mark.slow
@pytest.mark.usefixtures("away")
def test_tasks_and_actors_follow_the_nodes(tmp_path: Path) -> None:
    saw, told = run_scenario("work", tmp_path)
    tasks, actors = saw["tasks"], saw["actors"]
    assert tasks["done"] == 200
    assert tasks["nodes"] == 2
    assert tasks["followed_at"] < 200  # some ran on the second node while there were more to run
    # Its worker has to start, which takes the first node some tasks of half a second.
    assert tasks["followed_at"] - tasks["joined_at"] < 60
    assert told.count("waiting for CPUs: no node of the cluster has one; nothing adds nodes") == 1
    assert actors["left_at"] < 200  # or the node would have left when all was done
    assert actors["done"] == list(range(200))


@pytest.mark.slow
def test_an_autoscaler_is_asked_waited_for_and_believed(tmp_path: Path) -> None:
    saw, told = run_scenario("autoscaler", tmp_path)
    assert saw["grows"]
    assert saw["cpus"] == 0
    assert "9 workers need 9 CPUs, the cluster has 0 and its autoscaler cannot" in saw["refused"]
    assert not saw["waited"]
    assert saw["done"] == 200
    assert saw["nodes"] == saw["cpus_after"] == 2
    assert "9 workers need 9 CPUs, the cluster has 0; waiting for its autoscaler" in told


@pytest.mark.slow
def test_a_node_that_is_away_for_longer_than_a_minute_does_not_end_a_training(
    away: Future[Saw],
) -> None:
    saw, told = away.result()
    assert saw["step"] == 20
    # Both ranks from the start, and once more from a checkpoint: never from the start again.
    assert saw["starts"][:2] == [0, 0]
    assert len(saw["starts"]) == 4
    assert min(saw["starts"][2:]) >= 6
    assert "waiting for 2 CPUs: a node is gone and the cluster has 1" in told
    assert "the cluster has 2 CPUs again; resuming from the last checkpoint" in told


@pytest.mark.slow
def test_a_node_that_does_not_come_back_ends_it_with_a_reason(away: Future[Saw]) -> None:
    saw, _ = away.result()
    assert saw["error"].startswith("ValueError: no 2 CPUs were free together for ")
