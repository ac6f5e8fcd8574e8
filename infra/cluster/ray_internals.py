"""What Ray has no public interface for, all of it here. Tried with Ray 2.60.0.

With another version run: tests/infra/cluster/test_nodes.py (autoscaler, placement), test_ddp.py (datasets),
tests/infra/test_prometheus.py (retries), tests/jobs/submit (token),
tests/jobs/serve (the address of Ray Serve).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ray._private.state import state
from ray._private.worker import global_worker
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.exceptions import RayActorError


def token_header() -> Mapping[str, str] | None:
    """The HTTP header with this machine's cluster token, None when there is no token."""
    # Whatever RAY_AUTH_MODE says here: it is the cluster's mode that counts.
    header = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
    return header or None


def task_attempt() -> int:
    """How often the task that runs here was tried before: 0 at its first attempt."""
    return int(global_worker.core_worker.get_current_task_attempt_number())


def max_resource(resource: str) -> int | None:
    """The most CPUs or GPUs that nodes may come to have, None where the platform does not say."""
    most = state.get_max_resources_from_cluster_config()
    return None if most is None else int(most.get(resource, 0))


def autoscaler_status() -> GetClusterStatusReply:
    """The autoscaler's last report, empty where there is none, and the state of all nodes."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status())
    return reply


def lost_its_node(error: RayActorError) -> bool:
    """Whether an actor died with its node, not by itself. Ray says so in words only."""
    return error.preempted or "node has died" in str(error) or "node was terminated" in str(error)


class PlacementTimer(Protocol):
    """Measures how long workers wait for a place."""

    def start(self) -> None:
        """Workers wait for a place."""

    def stop(self) -> None:
        """They run."""

    def check(self) -> None:
        """An attempt to place them failed, another follows. Raise to end the run instead."""


def placement_callback(timer: PlacementTimer) -> Any:
    """A Ray Train callback that runs `timer` in the controller: `UserCallback` hears of no placement."""
    # Here, because this module is imported in every worker, and Ray Train takes 2 s.
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller.state import (
        ReschedulingState,
        RunningState,
        SchedulingState,
    )

    class PlacementCallback(ControllerCallback):
        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            match current_state:
                case RunningState():
                    timer.stop()
                case SchedulingState():
                    timer.start()
                case ReschedulingState():
                    timer.check()

    return PlacementCallback()


def leave_out_helpers(trainer: Any, *, is_embedded: bool) -> None:
    """Start no actors that do nothing here, for a process of each takes seconds.

    Ray Data's, one at each attempt: nothing reads by it. And on an embedded cluster the one that would free
    the workers' place after the controller's death: it asks the dashboard, which such a cluster has not.
    """
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    left_out = (DatasetsCallback, *((PlacementGroupCleanerCallback,) if is_embedded else ()))
    create = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [
        callback for callback in create() if not isinstance(callback, left_out)
    ]


def http_address() -> tuple[str, int]:
    """Host and port of the Ray Serve that this process has started or found."""
    # Here for the same reason: a module that workers import for nothing else.
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    return client.http_config.host, client.http_config.port
