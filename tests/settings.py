"""Settings of a work folder of its own: embedded Ray, a sqlite store."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.settings import Settings


def embedded_settings(work: Path) -> Settings:
    return Settings(
        work=work,
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        artifact_root=f"{work}/mlflow-artifacts",
        ray_address=None,
    )


def tracked_settings(work: Path) -> Settings:
    """The same with a new store, copied where there is none: making one takes MLflow seconds."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "mlflow.db").exists():
        (work / "mlflow.db").write_bytes(_new_store())
    return embedded_settings(work)


@cache
def _new_store() -> bytes:
    from mlflow import MlflowClient

    with TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()
