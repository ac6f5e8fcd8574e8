"""Where the outside world is: the only place that reads the environment.

| variable | meaning | default |
|---|---|---|
| FUSION_WORK | folder for datasets, runs, reports | ./work |
| FUSION_DATASETS | root of the datasets: a folder, or s3://bucket/prefix | datasets/ under FUSION_WORK |
| FUSION_RUNS | root of trainings' checkpoints: a folder, or s3://bucket/prefix | runs/ under FUSION_WORK |
| FUSION_NODE_WAIT_S | how long a training waits for a node: one that died, or an autoscaler's | 600 |
| FUSION_CACHE_GIB | most that fetched files may take below FUSION_WORK/cache/files | 50 |
| AWS_ENDPOINT_URL | an S3 store that is not Amazon's | Amazon's |
| MLFLOW_TRACKING_URI | an MLflow server | sqlite file under FUSION_WORK |
| RAY_ADDRESS | a Ray cluster | a cluster embedded in this process |
| FUSION_COMMIT | commit of the code (set by jobs.submit, by images) | asked of git |
| FUSION_LOG | json: whatever is told is a JSON object a line | lines for people |
| RAY_API_SERVER_ADDRESS | where jobs are submitted | http://127.0.0.1:8265 |
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).resolve().parents[1]
COMMIT = "FUSION_COMMIT"
_LOG, _RUN, JOB = "FUSION_LOG", "FUSION_RUN", "FUSION_JOB"
_JOB_SERVER = "RAY_API_SERVER_ADDRESS"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# What a job is submitted with, besides its id.
JOB_FACTS = ("command", "commit", "code", "config")


# A connection on which no answer comes any more looks like a long task. Ray asks after 5 minutes, and
# waits 2 more, before it takes the other host for unreachable; we, after half a minute and 20 s.
_KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}


class Settings(BaseModel):
    """The settings of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: Path
    datasets_uri: str | None = None
    runs_uri: str | None = None
    cache_gib: float = Field(default=50.0, ge=0)
    node_wait_s: float = Field(default=600.0, ge=0)
    s3_endpoint_url: str | None = None
    tracking_uri: str
    artifact_root: str | None
    ray_address: str | None
    # A submitted job already runs in a copy of the code that its workers share.
    in_ray_job: bool = False

    @property
    def datasets(self) -> str:
        """Root of the dataset versions and their shards: a path or s3://bucket/prefix."""
        return self.datasets_uri or str(self.work / "datasets")

    @property
    def cache_bytes(self) -> int:
        """Most that the cache of fetched files may hold."""
        return int(self.cache_gib * 2**30)

    @property
    def runs(self) -> str:
        """Where Ray Train keeps its checkpoints: a path or s3://bucket/prefix."""
        return self.runs_uri or str(self.work / "runs")


def read_settings(*, work: Path | None = None, ray_address: str | None = None) -> Settings:
    """Read the environment; arguments that are given win over it. Paths become absolute."""
    if os.environ.get(_LOG, "text") not in ("json", "text"):
        raise ValueError(f"{_LOG}={os.environ[_LOG]}: write json or text")
    folder = (work or Path(os.environ.get("FUSION_WORK", "work"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return Settings(
        work=folder,
        datasets_uri=os.environ.get("FUSION_DATASETS"),
        runs_uri=_absolute(os.environ.get("FUSION_RUNS")),
        cache_gib=_number("FUSION_CACHE_GIB", 50.0, "GiB"),
        node_wait_s=_number("FUSION_NODE_WAIT_S", 600.0, "seconds"),
        s3_endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        tracking_uri=server or f"sqlite:///{folder}/mlflow.db",
        # With a server, artifacts go where the server says; a sqlite file needs a folder beside it,
        # or MLflow would put them below whatever folder the process stands in.
        artifact_root=None if server else f"{folder}/mlflow-artifacts",
        ray_address=ray_address or os.environ.get("RAY_ADDRESS"),
        in_ray_job=_JOB_CONFIG in os.environ,
    )


def _number(name: str, default: float, unit: str) -> float:
    text = os.environ.get(name, str(default))
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: give a number of {unit}") from error


def _absolute(place: str | None) -> str | None:
    """A path made absolute; a URI as it is. Raises ValueError on a URI that is not S3's."""
    if not place or place.startswith("s3://"):
        return place
    if "://" in place:
        raise ValueError(f"FUSION_RUNS={place}: give a path or s3://bucket/prefix")
    return str(Path(place).resolve())


def look_after_connections() -> dict[str, str]:
    """Say in the environment how often Ray looks after its connections, unless it is said; return it."""
    return {name: os.environ.setdefault(name, value) for name, value in _KEEPALIVE.items()}


def job_server(given: str | None = None) -> str:
    """Address of Ray's job server: the one that is given, else RAY_API_SERVER_ADDRESS, else here.

    Ray's client lets that variable, and RAY_ADDRESS, win over an address that it is given, so a job
    would go to another cluster than the one that was named: the variable is set to the answer.
    """
    address = given or os.environ.get(_JOB_SERVER, "http://127.0.0.1:8265")
    os.environ[_JOB_SERVER] = address
    return address


_DECLARED = (
    "FUSION_WORK",
    "FUSION_DATASETS",
    "FUSION_RUNS",
    "FUSION_CACHE_GIB",
    "FUSION_NODE_WAIT_S",
    _LOG,
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "MLFLOW_TRACKING_URI",
)
_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|private|apikey|(^|_)(key|pass|pwd|auth)(_|$)", re.I
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_IN_CLEAR = (
    "everyone who can see the cluster's jobs would read it in clear. Set it where the nodes get "
    "their environment (a Kubernetes secret, an instance role), not with the job"
)


def declared_environment(extra: Sequence[str] = ()) -> dict[str, str]:
    """The variables that travel with a submitted job: where things are, never a secret.

    `extra` are further ones, NAME=VALUE, or NAME for the value that it has here. Raises ValueError for
    one that is not set, or a work folder that is not absolute.
    """
    found = {name: os.environ[name] for name in _DECLARED if name in os.environ}
    for item in extra:
        name, equals, value = item.partition("=")
        if not equals and name not in os.environ:
            raise ValueError(f"--env {item}: not set here; write {item}=VALUE")
        found[name] = value if equals else os.environ[name]
    work = found.get("FUSION_WORK", "/")
    if not Path(work).is_absolute():
        raise ValueError(f"FUSION_WORK={work}: a job's nodes need an absolute path")
    return found


def refuse_secrets(environment: Mapping[str, str], words: Sequence[str]) -> None:
    """Raise ValueError when what a job shows would hold a secret, by a name or by what it looks like."""
    for name in environment:
        if _SECRET_NAME.search(name):
            raise ValueError(f"{name} looks like a secret, and {_IN_CLEAR}")
    shown = {
        **environment,
        **{f"word {place} of the command": word for place, word in enumerate(words, 1)},
    }
    for where, text in shown.items():
        if _CREDENTIALS.search(text):
            raise ValueError(f"{where} holds credentials ({masked(text)}), and {_IN_CLEAR}")
        for name, value in os.environ.items():
            if len(value) >= 8 and _SECRET_NAME.search(name) and value in text:
                raise ValueError(f"{where} holds the value of {name}, and {_IN_CLEAR}")


def masked(text: str) -> str:
    """A text that may hold URIs, without the credentials in them."""
    return _CREDENTIALS.sub("***@", text)


def job_tags() -> dict[str, str]:
    """Of a submitted job: its id, and the command, commit, code and config it was submitted with.

    Ray hands a job what it was submitted with as JSON. Empty outside jobs.
    """
    metadata = _job_config().get("metadata", {})
    told = {
        "id": metadata.get("job_submission_id"),
        **{key: metadata.get(key) for key in JOB_FACTS},
    }
    return {f"job.{key}": value for key, value in told.items() if value}


def _job_config() -> dict[str, Any]:
    config = os.environ.get(_JOB_CONFIG)
    return json.loads(config) if config else {}


def worker_environment(wanted: Mapping[str, str]) -> dict[str, str]:
    """What workers are given besides what their job has, and has decided: Ray refuses it twice."""
    given = (_job_config().get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in wanted.items() if name not in given}


def bind_run(run_id: str) -> None:
    """From here on what this process and its workers log belongs to an MLflow run."""
    os.environ[_RUN] = run_id


def log_fields() -> dict[str, str] | None:
    """Job and run that a log line belongs to; None where lines are for people."""
    if os.environ.get(_LOG) != "json":
        return None
    found = {"job": os.environ.get(JOB) or job_tags().get("job.id"), "run": os.environ.get(_RUN)}
    return {name: value for name, value in found.items() if value}


def log_environment() -> dict[str, str]:
    """What a worker on another node needs, to log as this process does."""
    job = job_tags().get("job.id")
    found = {name: os.environ[name] for name in (_LOG, _RUN) if name in os.environ}
    return found | ({JOB: job} if job else {})


def code_commit() -> str:
    """Commit of the code that runs, with "+dirty" when it was changed; "unknown" outside git.

    A submitted job has no .git; it is told the commit of the tree that it was packed from.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    if not (REPOSITORY / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if commit.returncode != 0:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, check=False
    ).stdout
    return commit.stdout.strip() + ("+dirty" if changed.strip() else "")


def who_runs() -> str:
    """User, machine and process, as histories and locks keep them."""
    try:
        user = getpass.getuser()
    except KeyError:  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"
