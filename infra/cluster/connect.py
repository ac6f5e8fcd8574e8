"""The connection to Ray: a cluster that the settings name, or one embedded in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from infra.logs import log_warning
from infra.reachable import check_grpc
from infra.settings import (
    REPOSITORY,
    Settings,
    log_environment,
    set_keepalive,
    without_job_variables,
)
from infra.signals import handlers_kept, put_off

_REMEDY = (
    "RAY_ADDRESS (--address) is a head's HOST:PORT, such as ray-head:6379; without it the command "
    "starts a cluster in its own process"
)
_MAX_REASON = 600
# Of the libraries that exchange gradients, on CPUs and on GPUs.
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_WORKER_ENVIRONMENT = {
    # One thread a worker: two threads on busy cores are 2-4 times slower (platform.md 11).
    "OMP_NUM_THREADS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # How often the controller polls for reports; at the default of 2 s short runs wait for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How long one attempt to place the workers lasts; meanwhile the controller ignores Ctrl-C.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    **set_keepalive(),
}


@contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Connect to the cluster that the settings name, or start one in this process; shut down after.

    Inside another `connected` block this one uses that connection and leaves it open.
    """
    if ray.is_initialized():
        yield
        return
    if settings.ray_address:
        check_address(settings.ray_address)
    try:
        with handlers_kept():
            _start(settings)
        yield
    finally:
        with put_off():
            ray.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError or ConnectionError, in seconds, when no Ray cluster answers at an address."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal() and int(port[:6]) < 2**16):
        raise ValueError(f"Ray's address {address!r}: {_REMEDY}")
    try:
        check_grpc(host.strip("[]"), int(port), f"the Ray cluster {address}")
    except ConnectionError as error:
        raise ConnectionError(f"{error}; {_REMEDY}") from error


def _start(settings: Settings) -> None:
    """Connect to the settings' cluster, or start one. Raises ConnectionError with Ray's reason."""
    environment = worker_environment(settings)
    os.environ.update(environment)
    for is_last in (settings.ray_address is not None, True):
        try:
            ray.init(
                # "local" by name: without an address Ray joins whatever cluster runs on this machine.
                address=settings.ray_address or "local",
                runtime_env=({} if settings.in_ray_job else code_of_workers(settings.work))
                | {"env_vars": without_job_variables(environment | log_environment())},
                log_to_driver=settings.worker_log,
                logging_level=logging.ERROR,
                # An embedded cluster is for this process alone; a dashboard costs 300 MB and 3 s.
                **({} if settings.ray_address else {"include_dashboard": False}),
            )
            return
        # Ray raises all kinds: a bare Exception where its start took longer than its fixed 30 s.
        except Exception as error:
            if is_last:
                raise ConnectionError(_explained(error, settings.ray_address)) from error
            log_warning(f"{_explained(error, None)}; trying once more")
            ray.shutdown()


def _explained(error: Exception, address: str | None) -> str:
    """Why Ray could not be used, and what to do, on one line."""
    reason = " ".join(str(error).split())[:_MAX_REASON]
    if address is None:
        return (
            f"Ray did not start in this process ({reason}); the machine may be too busy: run the "
            "command again, or name a cluster with RAY_ADDRESS (--address)"
        )
    if "ersion mismatch" in reason:
        return f"the Ray cluster {address} is of other versions ({reason}); use its Python and Ray"
    return f"the Ray cluster {address} cannot be used from here ({reason}); {_REMEDY}"


def worker_environment(settings: Settings) -> dict[str, str]:
    """Variables that the processes of a cluster need, and this process before it connects."""
    found = dict(_WORKER_ENVIRONMENT)
    if settings.ray_address is None:
        # A process for each training that looks for nodes that are to be taken away: there is this one.
        found["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    if settings.network_interface:
        found |= dict.fromkeys(_INTERFACE_VARIABLES, settings.network_interface)
    if settings.runs.startswith("s3://"):
        # pyarrow would append a checksum to each chunk of a checkpoint, which older stores refuse.
        found["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    return found


def code_of_workers(work: Path) -> dict[str, Any]:
    """Runtime environment with this repository's code and without data, which goes by path or URI.

    Ray excludes what .gitignore names; a work folder elsewhere in the tree is excluded here.
    """
    excludes = [".git/", ".venv/", "work/"]
    if work.is_relative_to(REPOSITORY) and work != REPOSITORY:
        excludes.append(f"{work.relative_to(REPOSITORY)}/")
    return {"working_dir": str(REPOSITORY), "excludes": excludes}
