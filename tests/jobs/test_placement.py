"""Where a command computes: its options, and what a worker of a cluster is asked to have."""

import argparse
from typing import get_args

import pytest

from infra.cluster import nodes
from jobs.placement import DEVICES, Placement, add_placement, placement_of
from models.devices import DeviceName


def test_the_command_line_knows_the_devices() -> None:
    assert get_args(DeviceName) == DEVICES


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_share_is_of_one_gpu(share: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_placement(parser)
    with pytest.raises(argparse.ArgumentError, match="no share of a GPU"):
        parser.parse_args(["--gpu-share", share])
    assert placement_of(parser.parse_args([])) == Placement("auto", 1.0)


@pytest.mark.parametrize(
    ("device", "num_gpus", "most", "expected"),
    [("auto", 0, None, 0), ("cpu", 4, None, 0), ("auto", 1, None, 0.25), ("cuda", 0, 8, 0.25)],
)
def test_what_a_worker_asks_for(
    device: str,
    num_gpus: int,
    most: int | None,
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "count_resource", lambda resource: num_gpus)
    monkeypatch.setattr(nodes, "max_resource", lambda resource: most)
    assert nodes.gpus_of_worker(device, 0.25) == expected


def test_a_gpu_that_no_node_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "count_resource", lambda resource: 0)
    monkeypatch.setattr(nodes, "max_resource", lambda resource: None)
    with pytest.raises(ValueError, match="--device cuda: no node of the cluster has a GPU"):
        nodes.gpus_of_worker("cuda", 1.0)


def test_workers_that_share_gpus_are_counted_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "count_resource", lambda resource: {"CPU": 16, "GPU": 2}[resource])
    monkeypatch.setattr(nodes, "has_autoscaler", lambda: False)
    assert nodes.Capacity(0.25).num_actors == 8
    assert nodes.Capacity(0.4).num_actors == 4  # two fit a GPU, not two and a half
    assert nodes.Capacity().num_actors == 16
