"""The connection to Ray: a cluster that the settings name, or one embedded in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from infra.settings import (
    REPOSITORY,
    Settings,
    log_environment,
    set_keepalive,
    without_job_variables,
)

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
    environment = worker_environment(settings)
    os.environ.update(environment)
    ray.init(
        # "local" by name: without an address Ray joins whatever cluster runs on this machine.
        address=settings.ray_address or "local",
        runtime_env=({} if settings.in_ray_job else code_of_workers(settings.work))
        | {"env_vars": without_job_variables(environment | log_environment())},
        log_to_driver=False,
        logging_level=logging.ERROR,
        # An embedded cluster is for this process alone; a dashboard costs 300 MB and 3 s.
        **({} if settings.ray_address else {"include_dashboard": False}),
    )
    try:
        yield
    finally:
        ray.shutdown()


def worker_environment(settings: Settings) -> dict[str, str]:
    """Variables that the processes of a cluster need, and this process before it connects."""
    if not (settings.runs.startswith("s3://") and settings.s3_endpoint_url):
        return _WORKER_ENVIRONMENT
    # pyarrow would append a checksum to each chunk of a checkpoint, which older stores refuse.
    return _WORKER_ENVIRONMENT | {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}


def code_of_workers(work: Path) -> dict[str, Any]:
    """Runtime environment with this repository's code and without data, which goes by path or URI.

    Ray excludes what .gitignore names; a work folder elsewhere in the tree is excluded here.
    """
    excludes = [".git/", ".venv/", "work/"]
    if work.is_relative_to(REPOSITORY) and work != REPOSITORY:
        excludes.append(f"{work.relative_to(REPOSITORY)}/")
    return {"working_dir": str(REPOSITORY), "excludes": excludes}
