"""Settings of a work folder of its own: embedded Ray, a sqlite store."""

from pathlib import Path

from infra.settings import Settings


def embedded_settings(work: Path) -> Settings:
    return Settings(
        work=work,
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        artifact_root=f"{work}/mlflow-artifacts",
        ray_address=None,
    )
