"""Where the outside world is: the only place that reads the environment.

| variable | meaning | default |
|---|---|---|
| FUSION_WORK | folder for datasets, runs, reports | ./work |
| MLFLOW_TRACKING_URI | an MLflow server | sqlite file under FUSION_WORK |
| RAY_ADDRESS | a Ray cluster | a cluster embedded in this process |
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

REPOSITORY = Path(__file__).resolve().parents[1]


class Settings(BaseModel):
    """The settings of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: Path
    tracking_uri: str
    artifact_root: str | None
    ray_address: str | None

    @property
    def datasets(self) -> Path:
        """Root of the dataset versions and their shards."""
        return self.work / "datasets"

    @property
    def runs(self) -> Path:
        """Where Ray Train keeps its checkpoints."""
        return self.work / "runs"


def read_settings(*, work: Path | None = None, ray_address: str | None = None) -> Settings:
    """Read the environment; arguments that are given win over it. Paths become absolute."""
    folder = (work or Path(os.environ.get("FUSION_WORK", "work"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return Settings(
        work=folder,
        tracking_uri=server or f"sqlite:///{folder}/mlflow.db",
        # With a server, artifacts go where the server says; a sqlite file needs a folder beside it,
        # or MLflow would put them below whatever folder the process stands in.
        artifact_root=None if server else f"{folder}/mlflow-artifacts",
        ray_address=ray_address or os.environ.get("RAY_ADDRESS"),
    )


def code_commit() -> str:
    """Commit of the code that runs, with "+dirty" when it was changed; "unknown" outside git."""
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
