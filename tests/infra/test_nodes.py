"""Nodes that come and go: real clusters of several nodes, and Ray's own autoscaler with nodes that are
processes of this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.util import get_node_ip_address

from infra import nodes
from infra.settings import REPOSITORY, Settings
from tests.ray_head import TOKEN, RayHead, free_port, ray_head

_STARTS = ("head_start_ray", "worker_start_ray")


def run_scenario(name: str, folder: Path, **variables: str) -> tuple[dict[str, Any], str]:
    """What a scenario saw, and what was told meanwhile."""
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
    assert not nodes.grows()
    assert nodes.count("CPU") == 2
    assert nodes.count("GPU") == 0


@pytest.mark.slow
def test_tasks_follow_the_nodes(tmp_path: Path) -> None:
    saw, told = run_scenario("tasks", tmp_path)
    assert saw["done"] == 60
    assert saw["nodes"] == 2
    # The first task there began seconds after the node had joined; its worker has to start, too.
    assert saw["first_on_the_second_s"] < 30
    assert told.count("waiting for CPUs: no node of the cluster has one; nothing adds nodes") == 1


@pytest.mark.slow
def test_actors_follow_the_nodes(tmp_path: Path) -> None:
    saw, _ = run_scenario("actors", tmp_path)
    assert saw["left_at"] < 60  # or the node would have left when all was done
    assert saw["done"] == list(range(60))


@pytest.mark.slow
def test_a_node_that_is_away_for_longer_than_a_minute_does_not_end_a_training(
    tmp_path: Path,
) -> None:
    saw, told = run_scenario("training", tmp_path, AWAY_S="75")
    assert saw["step"] == 20
    # Both ranks from the start, and once more from a checkpoint: never from the start again.
    assert saw["starts"][:2] == [0, 0]
    assert len(saw["starts"]) == 4
    assert min(saw["starts"][2:]) >= 6
    assert "waiting for 2 CPUs: a node is gone and the cluster has 1" in told
    assert "the cluster has 2 CPUs again; going on from the last checkpoint" in told


@pytest.mark.slow
def test_a_node_that_does_not_come_back_ends_it_with_a_reason(tmp_path: Path) -> None:
    saw, _ = run_scenario("lost", tmp_path)
    assert saw["error"].startswith("ValueError: no 2 CPUs were free together for ")


@pytest.fixture
def growing_head(tmp_path: Path) -> Iterator[RayHead]:
    """A head without CPUs, and Ray's autoscaler, which starts nodes of one CPU here, two at most."""
    port = free_port()
    config = {
        "cluster_name": "fusion",
        "max_workers": 2,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 10,
        "provider": {
            # By its class, because the wheel lacks the defaults of the type "fake_multinode".
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"{get_node_ip_address()}:{port}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{
            f"{kind}_commands": []
            for kind in ("initialization", "setup", "head_setup", "worker_setup", *_STARTS)
        },
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }
    path = tmp_path / "autoscaler.json"
    path.write_text(json.dumps(config))
    # What `ray up` gives a head, besides the first, which this kind of nodes wants.
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    option = f"--autoscaling-config={path}"
    log = tmp_path / "head.log"
    with ray_head(log, option, port=port, num_cpus=0, variables=variables) as head:
        yield head


@pytest.mark.slow
def test_an_autoscaler_is_asked_waited_for_and_believed(
    growing_head: RayHead, tmp_path: Path
) -> None:
    saw, told = run_scenario(
        "autoscaler",
        tmp_path,
        RAY_ADDRESS=growing_head.gcs,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=TOKEN,
    )
    assert saw["grows"]
    assert saw["cpus"] == 0
    assert "9 workers need 9 CPUs, the cluster has 0 and its autoscaler cannot" in saw["refused"]
    assert saw["refused_s"] < 60
    assert saw["done"] == 8
    assert saw["nodes"] == saw["cpus_after"] == 2
    assert "9 workers need 9 CPUs, the cluster has 0; waiting for its autoscaler" in told
