"""What a Ray cluster has, and may come to have: nodes join and leave, an autoscaler's by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.state import state as ray_state
from ray._private.worker import global_worker
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RunningState,
    SchedulingState,
    TrainControllerState,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from infra.logs import notice
from infra.repeating import repeated

LOOK_EVERY_S = 1.0
_TELL_AFTER_S, _TELL_AGAIN_S = 5.0, 60.0
# Tasks that wait are what an autoscaler counts. So many are there before it has added a node.
_ASKED_AT_FIRST = 64


def count(resource: str) -> int:
    """How many of a resource, CPU or GPU, the nodes that are up have in all."""
    return int(ray.cluster_resources().get(resource, 0))


class Room:
    """The CPUs of the connected cluster, counted again every second while work is done."""

    def __init__(self) -> None:
        self._grows = grows()
        self._counted_s, self._cpus = 0.0, 0
        self._tell_s = time.monotonic() + _TELL_AFTER_S

    @property
    def num_tasks(self) -> int:
        """How many tasks to have under way, so that a CPU never waits for the next.

        With an autoscaler twice as many again, and some at the start: it adds nodes for what waits.
        """
        cpus = self._count()
        return max(4 * cpus, _ASKED_AT_FIRST) if self._grows else max(2 * cpus, 2)

    @property
    def num_actors(self) -> int:
        """How many actors of one CPU to have or to ask for."""
        cpus = self._count()
        return max(2 * cpus, _ASKED_AT_FIRST) if self._grows else max(cpus, 1)

    def tell_of_none(self) -> None:
        """Say, once a minute, that work waits because no node has a CPU."""
        now = time.monotonic()
        if self._count() or now < self._tell_s:
            return
        self._tell_s = now + _TELL_AGAIN_S
        what = (
            "its autoscaler is asked for nodes"
            if self._grows
            else "nothing adds nodes by itself: start one (ray start --address=…), or end this"
        )
        notice(f"waiting for CPUs: no node of the cluster has one; {what}")

    def _count(self) -> int:
        now = time.monotonic()
        if now - self._counted_s >= LOOK_EVERY_S:
            self._counted_s, self._cpus = now, count("CPU")
        return self._cpus


def grows() -> bool:
    """Whether an autoscaler adds nodes: KubeRay's, that of `ray up`, or a platform's own."""
    if _most("CPU") is not None:
        return True
    status = _status()
    # The same program reports of a cluster that is made by hand, whose nodes are of no type.
    return bool(
        status.autoscaling_state.last_seen_cluster_resource_state_version
        and any(node.ray_node_type_name for node in status.cluster_resource_state.node_states)
    )


def make_room(num_workers: int, resource: str, *, wait_s: float) -> None:
    """Return when the nodes have `num_workers` of a resource; an autoscaler is asked for them.

    Raises ValueError at once where nothing adds nodes or not as many, and after `wait_s`.
    """
    has = count(resource)
    if has >= num_workers:
        return
    needs = f"{num_workers} workers need {num_workers} {resource}s, the cluster has {has}"
    if not grows():
        raise ValueError(f"{needs}; lower num_workers or add nodes")
    most = _most(resource)
    cannot = f"{needs} and its autoscaler cannot add as many; lower num_workers or let it add more"
    if most is not None and most < num_workers:
        raise ValueError(f"{cannot} (it may come to {most})")
    notice(f"{needs}; waiting for its autoscaler to add nodes, {wait_s / 60:.3g} min at most")
    group = placement_group([{resource: 1.0}] * num_workers)
    deadline = time.monotonic() + wait_s
    try:
        while not group.wait(LOOK_EVERY_S):
            if _is_refused(group):
                raise ValueError(cannot)
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{num_workers} workers need {num_workers} {resource}s, and after {wait_s:.0f} s "
                    f"the cluster has {count(resource)}; look at its autoscaler (ray status), or "
                    "wait longer with FUSION_NODE_WAIT_S"
                )
    finally:
        remove_placement_group(group)


class Patience(ControllerCallback):
    """Ends a run whose workers had no place for too long. Ray Train counts tries, in the whole run."""

    def __init__(self, num_workers: int, resource: str, wait_s: float) -> None:
        self._needs, self._wait_s = f"{num_workers} {resource}s", wait_s
        self._since_s: float | None = None

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Ray Train calls this whenever it goes from one state to another."""
        now = time.monotonic()
        match current_state:
            case RunningState():
                self._since_s = None
            case SchedulingState():
                self._since_s = self._since_s or now
            case ReschedulingState() if self._since_s and now - self._since_s > self._wait_s:
                raise ValueError(
                    f"no {self._needs} were free together for {now - self._since_s:.0f} s; say the "
                    "same command again when the nodes are back, it goes on from the last checkpoint "
                    "(FUSION_NODE_WAIT_S waits longer)"
                )


@contextmanager
def told_of_lost(num_workers: int, resource: str, *, wait_s: float) -> Iterator[None]:
    """Say so while the cluster has less than a training needs, and when it has enough again."""
    lost = False

    def look() -> None:
        nonlocal lost
        try:
            has = count(resource)
        except (RayError, RuntimeError, OSError):
            return  # the cluster is gone, which the training says
        if has < num_workers and not lost:
            notice(
                f"waiting for {num_workers} {resource}s: a node is gone and the cluster has "
                f"{has}; the training goes on when it is back, or ends after {wait_s / 60:.3g} min"
            )
        elif lost and has >= num_workers:
            notice(f"the cluster has {has} {resource}s again; going on from the last checkpoint")
        lost = has < num_workers

    with repeated(look, every_s=LOOK_EVERY_S):
        yield


def _most(resource: str) -> int | None:
    """The most that nodes may come to have, where a platform says; Ray's own autoscaler does not."""
    most = ray_state.get_max_resources_from_cluster_config()
    return None if most is None else int(most.get(resource, 0))


def _is_refused(group: PlacementGroup) -> bool:
    """Whether the autoscaler has found that it can add no nodes for a group."""
    return any(
        request.details.startswith(group.id.hex())
        for request in _status().autoscaling_state.infeasible_gang_resource_requests
    )


def _status() -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status())
    return reply
