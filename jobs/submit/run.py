"""A command of ours as a job of a Ray cluster: its code, its environment, its log and its end."""

from __future__ import annotations

import secrets
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from infra.packing import archive_commit, pack_tree
from infra.settings import (
    COMMIT,
    JOB,
    JOB_FACTS,
    REPOSITORY,
    Settings,
    code_commit,
    job_server,
    read_settings,
)
from jobs.console import print_facts, print_line
from jobs.locations import open_folder
from jobs.submit.needs import Needs, missing
from pipelines.store.names import check_name

if TYPE_CHECKING:
    from infra.submit import JobDetails, JobServer

_IMAGE = "local:///app"
_NUM_SHOWN = 3


def entrypoint_of(words: Sequence[str]) -> str:
    """The shell line that runs a command on a node."""
    return shlex.join(["python", "-m", f"jobs.{words[0]}", *words[1:]])


@dataclass(frozen=True)
class Job:
    """A command as a job, with what travels along in clear: its environment, and the user's own facts.

    `config` is the configuration that a recipe and its `--set` came to.
    """

    id: str
    words: Sequence[str]
    environment: Mapping[str, str]
    metadata: Mapping[str, str]
    config: str | None = None


def name_job(words: Sequence[str], wanted: str | None) -> str:
    """The id that is wanted, or one for the command. Raises ValueError for one that is no name."""
    made = f"{words[0]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return check_name(wanted, "--id") if wanted else made


def submit(job: Job, server: JobServer, *, code: str, excludes: Sequence[str] = ()) -> None:
    """Submit a job. Raises ValueError when the code cannot be had, or the cluster refuses."""
    from infra.submit import submit_job

    with _code(code, excludes) as (location, commit):
        facts = {"command": shlex.join(job.words), "commit": commit, "code": code}
        facts |= {"config": job.config} if job.config else {}
        metadata = {**job.metadata, **facts}
        print_facts({"job": job.id, **metadata, **job.environment})
        submit_job(
            server,
            job.id,
            entrypoint_of(job.words),
            code=location,
            environment=_environment(job, None if code == "image" else commit),
            metadata=metadata,
        )


def read_metadata(assignments: Sequence[str]) -> dict[str, str]:
    """The user's own facts of a job. Raises ValueError for one that is ours, or not written KEY=VALUE."""
    found: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key or key in (*JOB_FACTS, *found):
            raise ValueError(
                f"--metadata {assignment}: write KEY=VALUE, every key once and none of "
                f"{', '.join(JOB_FACTS)}"
            )
        found[key] = value
    return found


def _environment(job: Job, commit: str | None) -> dict[str, str]:
    # For ten minutes a node gives the same answer where the same variables and code could not be
    # set up; the id makes every job's its own, so that one can be tried again after an outage.
    found = {**job.environment, JOB: job.id}
    # The image knows its own commit; git is in neither a zip nor the job's copy.
    return found | ({COMMIT: commit} if commit else {})


@contextmanager
def _code(code: str, excludes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Where Ray finds the code, and its commit."""
    if code == "image":
        yield _IMAGE, "the image's"
    elif code.startswith("local:///"):
        yield code, "unknown"
    elif code.startswith("s3://") and code.endswith(".zip"):
        check_archive(code)
        yield code, PurePosixPath(code).stem
    elif code == "tree":
        with tempfile.TemporaryDirectory(prefix="code-") as scratch:
            path = Path(scratch) / "code.zip"
            packed = pack_tree(path, excludes=excludes)
            if packed.untracked:
                shown = ", ".join(packed.untracked[:_NUM_SHOWN])
                print_line(
                    f"  not in git, so not sent: {len(packed.untracked)} files ({shown}); git add them"
                )
            yield str(path), code_commit()
    else:
        raise ValueError(f"--code {code}: give tree, image, s3://…zip or local:///FOLDER")


def check_archive(uri: str) -> None:
    """Raise ValueError when there is no such archive; where that cannot be checked from here, print so."""
    parent, _, name = uri.rpartition("/")
    try:
        absent = open_folder(parent, read_settings()).size_of(name) is None
    except OSError as error:
        print_line(f"  not checked whether the code is there: {error}")
        return
    if absent:
        raise ValueError(f"{uri}: no such object; put it there with: jobs.submit pack {parent}")


def check_resources(server: JobServer, needs: Needs) -> None:
    """Raise ValueError where the cluster is smaller than what a command needs."""
    from infra.submit import cluster_resources

    lacking = missing(needs, cluster_resources(server))
    if lacking:
        raise ValueError(
            f"the command needs {' and '.join(lacking)}: it would wait for ever; ask for less (--set "
            "num_workers=…), or give --unchecked where the cluster adds nodes by itself"
        )


def print_next(server: JobServer, job_id: str) -> None:
    """Print how to see the log of a job."""
    at = f" --address {server.address}" if server.address != job_server() else ""
    print_line(f"next: python -m jobs.submit logs {job_id} --follow{at}")


def follow(server: JobServer, job_id: str) -> None:
    """Follow a job to its end; exit with status 1 when it did not succeed, 130 when it was left."""
    from infra.submit import follow_job

    try:
        job = follow_job(server, job_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        if not _wants_to_stop():
            print_line(f"\n{job_id} keeps running")
            print_next(server, job_id)
            sys.exit(130)
        job = stop(server, job_id)
    if job.status != "SUCCEEDED":
        print(f"error: job {job_id} {_outcome(job)}", file=sys.stderr)
        sys.exit(1)


def _wants_to_stop() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job? [y/N] ").strip().lower() in ("y", "yes")
    except (KeyboardInterrupt, EOFError):
        return False


def stop(server: JobServer, job_id: str) -> JobDetails:
    """End a job, and print what became of it."""
    from infra.submit import stop_job

    job = stop_job(server, job_id)
    print_line(f"{job_id}: {job.status}")
    return job


def _outcome(job: JobDetails) -> str:
    if job.status == "STOPPED":
        return "was stopped"
    if job.driver_exit_code is not None:
        return f"failed with exit status {job.driver_exit_code}"
    # The runtime environment could not be made: the last lines say why, above them is Ray's own way.
    lines = (job.message or "").strip().splitlines()
    return f"failed before it started: {' '.join(lines[-2:])}"


def _times(job: JobDetails) -> str:
    if not job.start_time:
        return "not started"
    started = datetime.fromtimestamp(job.start_time / 1000, UTC)
    took = f", {(job.end_time - job.start_time) / 1000:.0f} s" if job.end_time else ""
    return f"{started:%Y-%m-%d %H:%M:%S}Z{took}"


def pack(to: str, settings: Settings, *, repository: Path = REPOSITORY) -> str:
    """Put the commit that is checked out below `to`, named by it; return its URI."""
    if not to.startswith("s3://"):
        raise ValueError(f"{to}: nodes fetch the code from s3://BUCKET/PREFIX")
    commit, data = archive_commit(repository)
    folder = open_folder(to, settings)
    name = f"{commit}.zip"
    if folder.size_of(name) is None:
        folder.write_once(name, data)
    print_facts({"code": f"{folder.uri}/{name}", "holds": f"{len(data) / 2**20:.1f} MiB"})
    return f"{folder.uri}/{name}"


def show_jobs(server: JobServer) -> None:
    """Print the jobs of a cluster, a line each."""
    from infra.submit import list_jobs

    jobs = list_jobs(server)
    if not jobs:
        print_line("no jobs yet")
        return
    width = max(len(job.submission_id) for job in jobs)
    for job in jobs:
        command = (job.metadata or {}).get("command", job.entrypoint)
        line = f"{job.submission_id:<{width}}  {job.status:<9}  {_times(job):<28}  {command}"
        print_line(line.rstrip())


def show_status(server: JobServer, job_id: str) -> None:
    """Print what a job is, and how it stands."""
    from infra.submit import find_job

    job = find_job(server, job_id)
    rows = {"job": job.submission_id, "status": job.status, **(job.metadata or {})}
    rows["started"] = _times(job)
    if job.status == "FAILED":
        rows["why"] = _outcome(job)
    rows |= (job.runtime_env or {}).get("env_vars", {})
    print_facts({name: str(value) for name, value in rows.items()})
