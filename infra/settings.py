"""Where the outside world is: the only place that reads the environment.

| variable | meaning | default |
|---|---|---|
| FUSION_WORK | folder for datasets, runs, reports | ./work |
| FUSION_DATASETS | root of the datasets: a folder, or s3://bucket/prefix | datasets/ under FUSION_WORK |
| FUSION_RUNS | root of trainings' checkpoints: a folder, or s3://bucket/prefix | runs/ under FUSION_WORK |
| FUSION_CACHE_GIB | most that fetched files may take below FUSION_WORK/cache/files | 50 |
| AWS_ENDPOINT_URL | an S3 store that is not Amazon's | Amazon's |
| MLFLOW_TRACKING_URI | an MLflow server | sqlite file under FUSION_WORK |
| RAY_ADDRESS | a Ray cluster | a cluster embedded in this process |
| FUSION_COMMIT | commit of the code (set by jobs.submit) | asked of git |
| RAY_API_SERVER_ADDRESS | where jobs are submitted | http://127.0.0.1:8265 |
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).resolve().parents[1]
_COMMIT = "FUSION_COMMIT"


class Settings(BaseModel):
    """The settings of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: Path
    datasets_uri: str | None = None
    runs_uri: str | None = None
    cache_gib: float = Field(default=50.0, ge=0)
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
    folder = (work or Path(os.environ.get("FUSION_WORK", "work"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return Settings(
        work=folder,
        datasets_uri=os.environ.get("FUSION_DATASETS"),
        runs_uri=_absolute(os.environ.get("FUSION_RUNS")),
        cache_gib=_cache_gib(),
        s3_endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        tracking_uri=server or f"sqlite:///{folder}/mlflow.db",
        # With a server, artifacts go where the server says; a sqlite file needs a folder beside it,
        # or MLflow would put them below whatever folder the process stands in.
        artifact_root=None if server else f"{folder}/mlflow-artifacts",
        ray_address=ray_address or os.environ.get("RAY_ADDRESS"),
        in_ray_job="RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ,
    )


def _cache_gib() -> float:
    text = os.environ.get("FUSION_CACHE_GIB", "50")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"FUSION_CACHE_GIB={text}: give a number of GiB") from error


def _absolute(place: str | None) -> str | None:
    """A path made absolute; a URI as it is. Raises ValueError on a URI that is not S3's."""
    if not place or place.startswith("s3://"):
        return place
    if "://" in place:
        raise ValueError(f"FUSION_RUNS={place}: give a path or s3://bucket/prefix")
    return str(Path(place).resolve())


def job_server() -> str:
    """Address of Ray's job server."""
    return os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")


def declared_environment() -> dict[str, str]:
    """The variables that travel with a submitted job: where things are, never a secret.

    Ray shows a job's variables in clear to everyone who can see the job.
    """
    declared = (
        "FUSION_WORK",
        "FUSION_DATASETS",
        "FUSION_RUNS",
        "FUSION_CACHE_GIB",
        "AWS_ENDPOINT_URL",
        "MLFLOW_TRACKING_URI",
    )
    found = {name: os.environ[name] for name in declared if name in os.environ}
    return found | {_COMMIT: code_commit()}


def code_commit() -> str:
    """Commit of the code that runs, with "+dirty" when it was changed; "unknown" outside git.

    A submitted job has no .git; it is told the commit of the tree that it was packed from.
    """
    if _COMMIT in os.environ:
        return os.environ[_COMMIT]
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
