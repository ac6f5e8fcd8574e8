"""Ray's job API: submit a command to a cluster, follow its log, stop it, read how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.util.state.api import StateApiClient
from ray.util.state.common import ListApiOptions, StateResource
from ray.util.state.exception import RayStateApiException
from requests.utils import get_environ_proxies

from infra.cluster.ray_internals import token_header
from infra.logs import log_warning
from infra.reachable import check_port

_POLL_S = 0.2
# A head that has just started answers before it can take jobs.
_AGENT_TIMEOUT_S = 60.0
_NODES_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class JobServer:
    """A cluster's job server, and the header with the token if it asks for one."""

    address: str
    headers: Mapping[str, str]

    @property
    def client(self) -> JobSubmissionClient:
        """A client; making one asks the server for its version."""
        return JobSubmissionClient(self.address, headers=dict(self.headers))


def open_server(address: str) -> JobServer:
    """Find the job server at `address`. A token is sent only to a server that asks for one.

    Raises ValueError when nothing answers, and when the token that it asks for is absent or wrong.
    """
    for noisy in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--address {address}: give the job server's URL, http://HOST:8265")
    server = JobServer(address, {})
    try:
        if not get_environ_proxies(address):
            # Ray's client sets no timeout of its own for a host that is silent.
            port = parts.port or (443 if parts.scheme == "https" else 80)
            check_port(parts.hostname, port, "it")
        _warn_of_version(server)
        return server
    except AuthenticationError:
        pass
    except (RuntimeError, OSError, requests.RequestException) as error:
        raise ValueError(f"no Ray job server at {address} ({error}); give --address URL") from error
    header = token_header()
    how = (
        "`ray get-auth-token` prints it on the head; set RAY_AUTH_TOKEN or write ~/.ray/auth_token"
    )
    if not header:
        raise ValueError(f"the cluster at {address} asks for a token and there is none here; {how}")
    server = JobServer(address, header)
    try:
        _ = server.client
        _warn_of_version(server)
    except AuthenticationError as error:
        raise ValueError(
            f"the token here is not that of the cluster at {address}; {how}"
        ) from error
    return server


def _warn_of_version(server: JobServer) -> None:
    """Warn where the cluster runs another Ray: its nodes must have the packages of the job's commit."""
    there = server.client.get_version()
    if there != ray.__version__:
        log_warning(
            f"the cluster at {server.address} runs Ray {there}, and this is Ray {ray.__version__}: a "
            "job needs the versions of requirements/run.txt on its nodes"
        )


def cluster_resources(server: JobServer) -> dict[str, float]:
    """Total resources of the nodes that are up, by Ray's names: CPU, GPU, memory, …

    Raises ValueError when no node is up in time; a head that has just started has none yet.
    """
    client = StateApiClient(server.address, headers=dict(server.headers))
    deadline = time.monotonic() + _NODES_TIMEOUT_S
    total: dict[str, float] = {}
    while not total:
        late = time.monotonic() > deadline
        try:
            options = ListApiOptions(detail=True)
            nodes = client.list(StateResource.NODES, options, raise_on_missing_output=False)
        except RayStateApiException as error:
            # A head that has just started drops connections.
            if late:
                raise ValueError(f"{server.address} does not list its nodes ({error})") from error
            nodes = []
        for node in nodes:
            if node.state == "ALIVE":
                for name, amount in node.resources_total.items():
                    total[name] = total.get(name, 0.0) + amount
        if not total:
            if late:
                raise ValueError(f"the cluster at {server.address} has no node that is up")
            time.sleep(_POLL_S)
    return total


def submit_job(
    server: JobServer,
    job_id: str,
    entrypoint: str,
    *,
    code: str,
    environment: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Submit `entrypoint` as the job `job_id`, to run in `code`: a zip here or on S3, or local://DIR.

    The driver requests no CPU of its own: with one, a job that fits no node would be pending, and Ray
    cannot stop a pending job (ray#58353). Raises ValueError when the server refuses.
    """
    runtime_env = {"working_dir": code, "env_vars": dict(environment)}
    deadline = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            server.client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env=runtime_env,
                metadata=dict(metadata),
            )
            return
        except (RuntimeError, ValueError, requests.RequestException) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ValueError(f"the cluster refused the job: {_first_line(error)}") from error
            time.sleep(1)


def _first_line(error: BaseException) -> str:
    """The error at the end of a message that carries the server's traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1] if len(lines) > 1 else str(error)


def follow_job(server: JobServer, job_id: str, on_text: Callable[[str], None]) -> JobDetails:
    """Pass the job's log to `on_text`, reconnecting if need be; return the job when it has ended."""
    client = server.client
    shown = 0

    async def tail() -> None:
        nonlocal shown
        seen = 0
        async for text in client.tail_job_logs(job_id):
            # A new connection sends the log from the start.
            fresh = text[max(0, shown - seen) :]
            seen += len(text)
            if fresh:
                on_text(fresh)
                shown = max(shown, seen)

    while True:
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError, aiohttp.ClientError):
            # Cut off, or the server is gone: find_job() finds out.
            time.sleep(_POLL_S)
        job = find_job(server, job_id)
        if job.status.is_terminal():
            return job
        time.sleep(_POLL_S)


def job_log(server: JobServer, job_id: str) -> str:
    """A job's log so far."""
    find_job(server, job_id)
    return str(server.client.get_job_logs(job_id))


def list_jobs(server: JobServer) -> list[JobDetails]:
    """The cluster's submitted jobs, oldest first."""
    jobs = [job for job in server.client.list_jobs() if job.submission_id]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def find_job(server: JobServer, job_id: str) -> JobDetails:
    """A job by its id. Raises ValueError that names the newest jobs."""
    try:
        return server.client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise ValueError(f"{server.address} refuses: {_first_line(error)}") from error
        newest = [job.submission_id for job in list_jobs(server)][-3:]
        shown = f"the newest are {', '.join(newest)}" if newest else "there are none"
        raise ValueError(f"no job {job_id!r} at {server.address}; {shown}") from error
    except (OSError, requests.RequestException) as error:
        raise ValueError(f"{server.address} no longer answers ({error})") from error


def stop_job(server: JobServer, job_id: str) -> JobDetails:
    """Stop a job (SIGTERM, SIGKILL 3 s later) and return it when it has ended.

    Raises ValueError when it does not end: Ray does not stop one before it has started.
    """
    job = find_job(server, job_id)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    asked: JobStatus | None = None
    while not job.status.is_terminal():
        if asked != job.status:
            # Repeated when it has started: Ray forgets a request to stop a pending job.
            server.client.stop_job(job_id)
            asked = job.status
        if time.monotonic() > deadline:
            why = " (Ray cannot stop a job before it has started)" * (asked == JobStatus.PENDING)
            raise ValueError(f"{job_id} is still {job.status}{why}; try again in a while")
        time.sleep(_POLL_S)
        job = find_job(server, job_id)
    return job
