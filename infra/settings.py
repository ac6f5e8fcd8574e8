"""Settings from the environment; no other module reads it.

| variable | meaning | default |
|---|---|---|
| FUSION_WORK | folder for datasets, runs, reports | ./work |
| FUSION_DATASETS | root of the datasets: a folder, or s3://bucket/prefix | datasets/ under FUSION_WORK |
| FUSION_RUNS | root of trainings' checkpoints: a folder, or s3://bucket/prefix | runs/ under FUSION_WORK |
| FUSION_NODE_WAIT_S | how long a training waits for a node: one that died, or an autoscaler's | 600 |
| FUSION_INTERFACE | network interface by which training workers reach each other, as eth0 | gloo's choice |
| FUSION_CACHE_GIB | size limit of the cache of fetched files, FUSION_WORK/cache/files | 50 |
| AWS_ENDPOINT_URL | an S3 store that is not Amazon's | Amazon's |
| MLFLOW_TRACKING_URI | an MLflow server | sqlite file under FUSION_WORK |
| MLFLOW_EXPERIMENT_NAME | the experiment that runs are logged to | ivif-fusion |
| RAY_ADDRESS | a Ray cluster | a cluster embedded in this process |
| FUSION_COMMIT | commit of the code (set by jobs.submit, by images) | git's HEAD |
| FUSION_LOG | json: each log line is a JSON object | text |
| FUSION_WORKER_LOG | 1: a command shows what its Ray workers write, too | 0: their errors alone |
| FUSION_SERVE_TOKEN | what clients of jobs.serve must know | none: this machine's only |
| RAY_API_SERVER_ADDRESS | where jobs are submitted | http://127.0.0.1:8265 |
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
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
WORKER_LOG = "FUSION_WORKER_LOG"
_LOG, _RUN, JOB = "FUSION_LOG", "FUSION_RUN", "FUSION_JOB"
_JOB_SERVER = "RAY_API_SERVER_ADDRESS"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# The metadata of a job, besides its id.
JOB_FACTS = ("command", "commit", "code", "config")


# A dead connection looks like a long task. By default Ray sends a keepalive after 5 minutes and waits 2
# more before it takes the other host for unreachable; here, after 30 s and 20 s.
_KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}

# Databases that MLflow takes besides sqlite, and where they listen by default.
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Settings(BaseModel):
    """The settings of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: Path
    datasets_uri: str | None = None
    runs_uri: str | None = None
    cache_gib: float = Field(default=50.0, ge=0)
    node_wait_s: float = Field(default=600.0, ge=0)
    network_interface: str | None = None
    worker_log: bool = False
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
        """Size limit of the cache of fetched files."""
        return int(self.cache_gib * 2**30)

    @property
    def runs(self) -> str:
        """Where Ray Train keeps its checkpoints: a path or s3://bucket/prefix."""
        return self.runs_uri or str(self.work / "runs")


def read_settings(*, work: Path | None = None, ray_address: str | None = None) -> Settings:
    """Read the environment; arguments that are given win over it. Paths become absolute."""
    if os.environ.get(_LOG, "text") not in ("json", "text"):
        raise ValueError(f"{_LOG}={os.environ[_LOG]}: write json or text")
    folder = _work_folder(work)
    tracking_uri, artifact_root = _tracking(os.environ.get("MLFLOW_TRACKING_URI"), folder)
    return Settings(
        work=folder,
        datasets_uri=os.environ.get("FUSION_DATASETS") or None,
        runs_uri=_absolute(os.environ.get("FUSION_RUNS")),
        cache_gib=_number("FUSION_CACHE_GIB", 50.0, "GiB", most=1e9),
        node_wait_s=_number("FUSION_NODE_WAIT_S", 600.0, "seconds", most=1e7),
        network_interface=os.environ.get("FUSION_INTERFACE") or None,
        worker_log=_flag(WORKER_LOG),
        s3_endpoint_url=(
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        ),
        tracking_uri=tracking_uri,
        artifact_root=artifact_root,
        ray_address=ray_address or os.environ.get("RAY_ADDRESS"),
        in_ray_job=_JOB_CONFIG in os.environ,
    )


def _work_folder(given: Path | None) -> Path:
    """The work folder, made if need be. Raises ValueError where that cannot be done."""
    named = given or Path(os.environ.get("FUSION_WORK") or "work")
    try:
        folder = named.resolve()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"FUSION_WORK (--work) {named}: {reason}; name a folder that can be written"
        ) from error
    return folder


def _tracking(uri: str | None, work: Path) -> tuple[str, str | None]:
    """MLflow's address, and where its artifacts go; None where a server says that.

    A path of a sqlite file becomes absolute, as workers stand in other folders, and its artifacts lie
    beside it: MLflow would put them below whatever folder the process stands in. Raises ValueError for
    what holds no model registry.
    """
    uri = uri or f"sqlite:///{work}/mlflow.db"
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme not in ("http", "https", "sqlite", *DATABASE_PORTS):
        raise ValueError(
            f"MLFLOW_TRACKING_URI={masked(uri)[:200]}: give a server (https://HOST), or a database "
            "(sqlite:////PATH/mlflow.db, postgresql://USER@HOST/NAME); folders hold no model registry"
        )
    if scheme != "sqlite":
        return uri, None if scheme.startswith("http") else f"{work}/mlflow-artifacts"
    driver, _, rest = uri.partition(":///")
    path, question, options = rest.partition("?")
    if not path or path.startswith((":", "file:")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI={uri}: give a file's path, sqlite:////PATH/mlflow.db"
        )
    file = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() fails on links in a circle
    return f"{driver}:///{file}{question}{options}", f"{file.parent}/mlflow-artifacts"


def experiment_name() -> str:
    """The experiment of MLflow that runs are logged to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "ivif-fusion"


def _number(name: str, default: float, unit: str, *, most: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:  # NaN is in no range
        raise ValueError(f"{name}={text[:40]}: give a number of {unit} from 0 to {most:g}")
    return value


def _flag(name: str) -> bool:
    text = os.environ.get(name) or "0"
    if text not in ("0", "1"):
        raise ValueError(f"{name}={text[:40]}: give 1 or 0")
    return text == "1"


def _absolute(place: str | None) -> str | None:
    """A path made absolute; a URI as it is. Raises ValueError on a URI that is not S3's."""
    if not place or re.match("s3://[^/]", place):
        return place or None
    if "://" in place:
        raise ValueError(f"FUSION_RUNS={place}: give a path or s3://bucket/prefix")
    return str(Path(place).resolve())


def serve_token() -> str | None:
    """The token of jobs.serve, None without one. It is no part of the settings, which travel."""
    return os.environ.get("FUSION_SERVE_TOKEN") or None


def set_keepalive() -> dict[str, str]:
    """Set the keepalive of Ray's connections in the environment where it is not set; return it."""
    return {name: os.environ.setdefault(name, value) for name, value in _KEEPALIVE.items()}


def forbid_update_checks() -> None:
    """Keep albumentations, which asks PyPI for news when it is imported, from doing so."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def let_idle_threads_sleep() -> None:
    """Let the threads of torch's operators sleep while they wait; before torch is imported.

    They spin otherwise, and on busy cores they take each other's time: beside five other programs on two
    cores a pair took `jobs.fuse small` 98 s with spinning threads and 27 s with sleeping ones.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def job_server(given: str | None = None) -> str:
    """Address of Ray's job server: `given`, else RAY_API_SERVER_ADDRESS, else this machine's.

    Ray's client prefers that variable, and RAY_ADDRESS, to an address that it is passed, so a job would
    go to another cluster than the one that was named. Hence the variable is set to the result.
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
    "FUSION_INTERFACE",
    _LOG,
    WORKER_LOG,
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
)
_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|private|apikey|(^|_)(key|pass|pwd|auth)(_|$)", re.I
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_IN_CLEAR = (
    "everyone who can see the cluster's jobs could read it in clear. Set it where the nodes get "
    "their environment (a Kubernetes secret, an instance role), not with the job"
)


def declared_environment(extra: Sequence[str] = ()) -> dict[str, str]:
    """The variables that travel with a submitted job: locations and options, never a secret.

    `extra` adds NAME=VALUE, or NAME with its value here. Raises ValueError for a variable that is not
    set, or a work folder that is not absolute.
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
    store = found.get("MLFLOW_TRACKING_URI", "")
    if store.startswith("sqlite") and ":////" not in store:
        raise ValueError(
            f"MLFLOW_TRACKING_URI={store}: a job's nodes need an absolute path, or a server"
        )
    return found


def refuse_secrets(environment: Mapping[str, str], words: Sequence[str]) -> None:
    """Raise ValueError when a job's variables or command hold a secret, by its name, form or value."""
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
    """A text without the credentials in its URIs."""
    return _CREDENTIALS.sub("***@", text)


def job_tags() -> dict[str, str]:
    """A submitted job's id, command, commit, code and config, as tags; empty outside jobs.

    Ray passes them to the job as JSON.
    """
    metadata = _job_config().get("metadata", {})
    facts = {
        "id": metadata.get("job_submission_id"),
        **{key: metadata.get(key) for key in JOB_FACTS},
    }
    return {f"job.{key}": value for key, value in facts.items() if value}


def _job_config() -> dict[str, Any]:
    config = os.environ.get(_JOB_CONFIG)
    return json.loads(config) if config else {}


def without_job_variables(wanted: Mapping[str, str]) -> dict[str, str]:
    """`wanted` without the variables that this process's job sets: Ray refuses a second value."""
    given = (_job_config().get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in wanted.items() if name not in given}


def bind_run(run_id: str) -> None:
    """Add an MLflow run's id to what this process and its workers log from now on."""
    os.environ[_RUN] = run_id


def log_fields() -> dict[str, str] | None:
    """Job and run of a log line; None where logs are text."""
    if os.environ.get(_LOG) != "json":
        return None
    found = {"job": os.environ.get(JOB) or job_tags().get("job.id"), "run": os.environ.get(_RUN)}
    return {name: value for name, value in found.items() if value}


def log_environment() -> dict[str, str]:
    """Variables with which a worker on another node logs as this process does."""
    job = job_tags().get("job.id")
    found = {name: os.environ[name] for name in (_LOG, _RUN) if name in os.environ}
    return found | ({JOB: job} if job else {})


def code_commit() -> str:
    """Commit of the code that runs, with "+dirty" when it was changed; "unknown" outside git.

    A submitted job has no .git; FUSION_COMMIT holds the commit that it was packed from.
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


def code_digest(packages: Sequence[str]) -> str:
    """Digest of all Python files of some packages, by their paths: uncommitted changes count."""
    digest = hashlib.sha256()
    files = sorted(path for name in packages for path in (REPOSITORY / name).rglob("*.py"))
    for path in files:
        digest.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def who_runs() -> str:
    """User, machine and process, for histories and locks."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name; OSError since Python 3.13
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"
