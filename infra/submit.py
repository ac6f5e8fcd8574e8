"""Ray's job API: hand a command to a cluster, follow it, learn how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from infra.cluster import code_without


def submit_job(
    address: str,
    entrypoint: str,
    environment: Mapping[str, str],
    *,
    work: Path,
    timeout_s: float = 60,
) -> str:
    """Pack the code, submit `entrypoint`, return the job's id.

    Raises ValueError when the job server does not answer or refuses the job (code over 100 MiB).
    """
    # It tells of every file that it packs and of those that it leaves out.
    logging.getLogger("ray").setLevel(logging.ERROR)
    runtime_env = {**code_without(work), "env_vars": dict(environment)}
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client = JobSubmissionClient(address)
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except (ConnectionError, requests.RequestException) as error:
            raise ValueError(
                f"no Ray job server at {address} ({error}); give --address URL"
            ) from error
        except RuntimeError as error:
            # A head that has just started answers before it can take jobs.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ValueError(f"the cluster refused the job: {error}") from error
            time.sleep(1)


def follow_job(address: str, job_id: str, on_text: Callable[[str], None]) -> bool:
    """Hand the job's log on as it comes; return whether the job succeeded."""
    client = JobSubmissionClient(address)

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            on_text(text)

    asyncio.run(tail())
    return bool(client.get_job_status(job_id) == JobStatus.SUCCEEDED)
