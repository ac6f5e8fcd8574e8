"""The MLflow model registry: versions, aliases, and the one lock that promotions take."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from infra.settings import Settings

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            TensorSpec(np.dtype(np.float32), (-1, 3, -1, -1), "vi"),
            TensorSpec(np.dtype(np.float32), (-1, 1, -1, -1), "ir"),
        ]
    ),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, -1, -1))]),
)


def register_bundle(
    client: MlflowClient,
    name: str,
    bundle: Path,
    *,
    run_id: str,
    tags: Mapping[str, str],
    requirements: list[str],
) -> ModelVersion:
    """Log a bundle to a run as a pyfunc model, register it as a new version, alias it `challenger`."""
    # MLflow advises to let it infer the signature, from an example that it would store as megabytes
    # of JSON or from type hints that cannot say "any size", and resets filters to say so. Ours is
    # given, so its advice is recorded and dropped.
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings(record=True):
        logged = mlflow.pyfunc.log_model(
            name="fuser",
            python_model=str(Path(__file__).parent / "mlflow" / "fuser_model.py"),
            artifacts={"bundle": str(bundle)},
            signature=_SIGNATURE,
            pip_requirements=requirements,
        )
    version = mlflow.register_model(logged.model_uri, name, tags=dict(tags))
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    return version


def find_model(client: MlflowClient, uri: str) -> ModelVersion:
    """The version behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises ValueError when there is none.
    """
    name, alias, number = _parse(uri)
    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except MlflowException as error:
        raise ValueError(f"{uri}: no such registered model version ({error.message})") from error


def find_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points at, None when it points nowhere."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def fetch_bundle(client: MlflowClient, version: ModelVersion, target: Path) -> Path:
    """Download a version into the folder `target` and return its bundle's folder."""
    mlflow.artifacts.download_artifacts(
        artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(target)
    )
    return bundle_in(target)


def bundle_in(downloaded: Path) -> Path:
    """Where the bundle lies in a downloaded version."""
    # MLflow keeps the name that the folder had when it was logged; it is the only artifact.
    [bundle] = (downloaded / "artifacts").iterdir()
    return bundle


def promote(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Make a version the champion, the champion the previous one; write the evidence as tags.

    Call it under `promotion_lock`: aliases have no compare-and-set.
    """
    champion = find_alias(client, version.name, CHAMPION)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    if champion and champion.version != version.version:
        client.set_registered_model_alias(version.name, PREVIOUS, champion.version)
    client.set_registered_model_alias(version.name, CHAMPION, version.version)


@contextmanager
def promotion_lock(settings: Settings, name: str) -> Iterator[None]:
    """Hold the promotion of `name`; a second one at the same time is refused with ValueError."""
    with (settings.work / f".promotion-{name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another promotion of {name!r} is under way; try again after it"
            ) from error
        yield


def _parse(uri: str) -> tuple[str, str, str]:
    body = uri.removeprefix("models:/")
    name, _, alias = body.partition("@")
    if alias:
        return name, alias, ""
    name, _, number = body.partition("/")
    if not (uri.startswith("models:/") and name and number.isdigit()):
        raise ValueError(f"{uri!r}: give models:/NAME@ALIAS or models:/NAME/VERSION")
    return name, "", number
