"""What the nodes of a Ray cluster have: nodes join and leave, an autoscaler adds some by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from infra.cluster.ray_internals import autoscaler_status, max_resource
from infra.logs import log_warning
from infra.periodic import periodically

POLL_S = 1.0
_WARN_AFTER_S, _WARN_EVERY_S = 5.0, 60.0
# An autoscaler counts pending tasks; so many are submitted before it has added a node.
_MIN_SUBMITTED = 64
_CANNOT_ADD = " and its autoscaler cannot add enough; lower num_workers or raise its limit"


def count_resource(resource: str) -> int:
    """Total CPUs or GPUs of the nodes that are up."""
    return int(ray.cluster_resources().get(resource, 0))


def metrics_address() -> str:
    """Where Prometheus reads the metrics of the head, or of this process's own cluster."""
    node = ray.nodes()[0]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def gpus_of_worker(device: str, share: float) -> float:
    """The share of a GPU that a worker asks Ray for to compute on a device: "auto", "cpu", "cuda".

    0 is none: on a CPU. Raises ValueError for "cuda" on a cluster that has none and can add none.
    """
    if device == "cpu":
        return 0
    has = count_resource("GPU") or max_resource("GPU")
    if device == "cuda" and not has:
        raise ValueError(
            "--device cuda: no node of the cluster has a GPU; add one, or take --device cpu"
        )
    return share if has else 0


class Capacity:
    """How many workers of one CPU, and a share of a GPU, the connected cluster has place for.

    Counted again every `POLL_S`.
    """

    def __init__(self, gpu_share: float = 0) -> None:
        self._gpu_share = gpu_share
        self._has_autoscaler = has_autoscaler()
        self._counted_s, self._places = 0.0, 0
        self._warn_s = time.monotonic() + _WARN_AFTER_S

    @property
    def num_places(self) -> int:
        """How many workers have place now, one at least."""
        return max(self._count(), 1)

    @property
    def num_tasks(self) -> int:
        """How many tasks to have in flight, so that a CPU never waits for the next.

        With an autoscaler twice as many, and a minimum: it adds nodes for pending tasks.
        """
        places = self._count()
        return max(4 * places, _MIN_SUBMITTED) if self._has_autoscaler else max(2 * places, 2)

    @property
    def num_actors(self) -> int:
        """How many actors to have running or pending."""
        places = self._count()
        return max(2 * places, _MIN_SUBMITTED) if self._has_autoscaler else max(places, 1)

    def warn_if_none(self) -> None:
        """Warn, once a minute, that tasks wait because no node has a CPU, or the GPU that they need."""
        now = time.monotonic()
        if self._count() or now < self._warn_s:
            return
        self._warn_s = now + _WARN_EVERY_S
        remedy = (
            "its autoscaler is asked for nodes"
            if self._has_autoscaler
            else "nothing adds nodes: start one (ray start --address=…), or stop this command"
        )
        what = "GPUs" if self._gpu_share else "CPUs"
        log_warning(f"waiting for {what}: no node of the cluster has one; {remedy}")

    def _count(self) -> int:
        now = time.monotonic()
        if now - self._counted_s >= POLL_S:
            self._counted_s, self._places = now, count_resource("CPU")
            if self._gpu_share:
                on_gpus = count_resource("GPU") * int(1 / self._gpu_share)
                self._places = min(self._places, on_gpus)
        return self._places


def has_autoscaler() -> bool:
    """Whether an autoscaler adds nodes: KubeRay's, that of `ray up`, or a platform's own."""
    if max_resource("CPU") is not None:
        return True
    status = autoscaler_status()
    # A cluster made by hand has such reports, too, but its nodes are of no type.
    return bool(
        status.autoscaling_state.last_seen_cluster_resource_state_version
        and any(node.ray_node_type_name for node in status.cluster_resource_state.node_states)
    )


def check_resources(num_workers: int, resource: str) -> bool:
    """Whether the nodes have `num_workers` CPUs or GPUs now; else their autoscaler may add them.

    Raises ValueError where nothing adds nodes, or not as many.
    """
    has = count_resource(resource)
    if has >= num_workers:
        return True
    needs = _needs(num_workers, resource, has)
    if not has_autoscaler():
        raise ValueError(f"{needs}; lower num_workers or add nodes")
    most = max_resource(resource)
    if most is not None and most < num_workers:
        raise ValueError(f"{needs}{_CANNOT_ADD} ({most})")
    return False


def _needs(num_workers: int, resource: str, has: int) -> str:
    return f"{num_workers} workers need {num_workers} {resource}s, the cluster has {has}"


def wait_for_resources(num_workers: int, resource: str, *, timeout_s: float) -> None:
    """Return when the nodes have `num_workers` CPUs or GPUs; an autoscaler is asked for them.

    Raises ValueError at once where nothing adds nodes or not as many, and after `timeout_s`.
    """
    if check_resources(num_workers, resource):
        return
    needs = _needs(num_workers, resource, count_resource(resource))
    minutes = f"{timeout_s / 60:.3g} min"
    log_warning(f"{needs}; waiting for its autoscaler to add nodes, {minutes} at most")
    group = placement_group([{resource: 1.0}] * num_workers)
    deadline = time.monotonic() + timeout_s
    try:
        while not group.wait(POLL_S):
            if _is_infeasible(group):
                raise ValueError(f"{needs}{_CANNOT_ADD}")
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{num_workers} workers need {num_workers} {resource}s, and after "
                    f"{timeout_s:.0f} s the cluster has {count_resource(resource)}; look at its "
                    "autoscaler (ray status), or wait longer with FUSION_NODE_WAIT_S"
                )
    finally:
        remove_placement_group(group)


def _is_infeasible(group: PlacementGroup) -> bool:
    """Whether the autoscaler has found that it cannot add nodes for a group."""
    return any(
        request.details.startswith(group.id.hex())
        for request in autoscaler_status().autoscaling_state.infeasible_gang_resource_requests
    )


class PlacementTimeout:
    """Ends a run whose workers found no place for `timeout_s`, counted from each attempt.

    Ray Train itself counts attempts, over the whole run.
    """

    def __init__(self, num_workers: int, resource: str, timeout_s: float) -> None:
        self._needs, self._timeout_s = f"{num_workers} {resource}s", timeout_s
        self._started_s: float | None = None

    def start(self) -> None:
        """Start, unless it has."""
        self._started_s = self._started_s or time.monotonic()

    def stop(self) -> None:
        """The workers run."""
        self._started_s = None

    def check(self) -> None:
        """Raise ValueError after `timeout_s`."""
        waited_s = time.monotonic() - self._started_s if self._started_s else 0.0
        if waited_s > self._timeout_s:
            raise ValueError(
                f"no {self._needs} were free together for {waited_s:.0f} s; run the same command "
                "again when the nodes are back, and it resumes from the last checkpoint "
                "(FUSION_NODE_WAIT_S waits longer)"
            )


@contextmanager
def log_lost_nodes(num_workers: int, resource: str, *, timeout_s: float) -> Iterator[None]:
    """Warn when the cluster has less than a training needs, and when it has enough again."""
    lost = False

    def look() -> None:
        nonlocal lost
        try:
            has = count_resource(resource)
        except (RayError, RuntimeError, OSError):
            return  # the cluster is gone, which the training reports
        if has < num_workers and not lost:
            log_warning(
                f"waiting for {num_workers} {resource}s: a node is gone and the cluster has {has}; "
                f"the training resumes when it is back, or ends after {timeout_s / 60:.3g} min"
            )
        elif lost and has >= num_workers:
            log_warning(
                f"the cluster has {has} {resource}s again; resuming from the last checkpoint"
            )
        lost = has < num_workers

    with periodically(look, every_s=POLL_S):
        yield
