"""The MLflow model registry: versions, aliases, the promotion lock, the history of promotions."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.logging_utils import disable_logging, enable_logging
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME, MLFLOW_USER

from infra.registry.leases import SUFFIX, Lease, age_s, create_lease, delete_lease, read_lease

# The tag of a version that names MLflow's logged model, which has its files and its metrics.
_LOGGED_MODEL = "logged_model_id"
_NOT_FOUND = 404
# Tags of a version that are its run's: who trained it, and by which command.
_ORIGIN = {"user": MLFLOW_USER, "source": MLFLOW_SOURCE_NAME}
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
# Timeout of the promotion lock: a promotion takes seconds.
LOCK_LEASE_S = 600.0

_LOCK_SUFFIX = f".promotion{SUFFIX}"
# The registered model whose tags are the history of another one, so that the page of that one shows what
# it is and not its events. Of a run they would be gone with the run.
_HISTORY_SUFFIX, _EVENT_PREFIX = ".promotions", "promotion."
# PostgreSQL keeps a registered model's tag in a VARCHAR(5000).
_MAX_EVENT_CHARS = 5000
# Descriptions are VARCHAR(5000), too.
_MAX_DESCRIPTION_CHARS = 5000


def register_bundle(
    client: MlflowClient,
    name: str,
    bundle: Path,
    *,
    run_id: str,
    tags: Mapping[str, str],
    requirements: list[str],
) -> ModelVersion:
    """Log a bundle to a run as a pyfunc model, register it as a new version, alias it `challenger`.

    Its signature is what the contract in its config.json says; the tags `user` and `source` are the run's,
    for MLflow takes no user of a version. Where this may have been interrupted, ask
    `resume_registration` first.
    """
    run = client.get_run(run_id)
    tags = {
        **tags,
        **{key: run.data.tags[tag] for key, tag in _ORIGIN.items() if tag in run.data.tags},
    }
    with tempfile.TemporaryDirectory(prefix="model-") as scratch, _quiet():
        folder = Path(scratch) / f"fuser-{uuid.uuid4().hex[:8]}"
        _save(folder, bundle, requirements)
        logged = _log_model(client, run, name, folder, tags)
        _create_model(client, name)
        version = client.create_model_version(name, run_id=run_id, **logged)
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    return version


def _log_model(
    client: MlflowClient, run: Run, name: str, folder: Path, tags: dict[str, str]
) -> dict[str, Any]:
    """Log a model's folder to a run; what the version that is made of it is given."""
    try:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run.info.run_id,
            tags=tags,
            model_type="fuser",
        )
    except MlflowException as error:
        if error.get_http_status_code() != _NOT_FOUND and "404" not in str(error):
            raise
        # A server of MLflow 2 knows no logged models: its versions are of the run, without metrics.
        client.log_artifacts(run.info.run_id, str(folder), folder.name)
        return {"source": f"{run.info.artifact_uri}/{folder.name}", "tags": tags}
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    known = {**tags, _LOGGED_MODEL: logged.model_id}
    return {"source": f"models:/{logged.model_id}", "tags": known, "model_id": logged.model_id}


def resume_registration(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    """The version of `name` that a run has registered already, if it has; a run registers once.

    A kill may have left it without alias: it is the challenger unless a newer version is.
    """
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    if not found:
        return None
    version = max(found, key=lambda one: int(one.version))
    challenger = find_alias(client, name, CHALLENGER)
    if challenger is None or int(challenger.version) < int(version.version):
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    return client.get_model_version(name, version.version)


def _save(path: Path, bundle: Path, requirements: list[str]) -> None:
    """Write a bundle as a pyfunc model to the new folder `path`."""
    # MLflow advises to let it infer the signature, from an example that it would store as megabytes
    # of JSON or from type hints that cannot say "any size", and resets filters to say so. Ours is
    # given, so its advice is recorded and dropped.
    with warnings.catch_warnings(record=True), _quiet():
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(Path(__file__).parent / "fuser_model.py"),
            artifacts={"bundle": str(bundle)},
            model_config={"device": "auto"},
            signature=_signature(bundle),
            pip_requirements=requirements,
        )


def _signature(bundle: Path) -> ModelSignature:
    contract = json.loads((bundle / "config.json").read_text())["contract"]
    inputs = [
        TensorSpec(np.dtype(spec["dtype"]), tuple(spec["shape"]), name)
        for name, spec in contract["inputs"].items()
    ]
    shapes = {name: (-1, channels, -1, -1) for name, channels in contract["outputs"].items()}
    is_one = len(shapes) == 1
    outputs = [
        TensorSpec(np.dtype(np.float32), shape, None if is_one else name)
        for name, shape in shapes.items()
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's progress output; errors are raised all the same."""
    disable_logging()
    try:
        yield
    finally:
        enable_logging()


def find_model(client: MlflowClient, uri: str) -> ModelVersion:
    """The version behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises ValueError when there is none.
    """
    name, alias, number = _parse_uri(uri)
    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except MlflowException as error:
        existing = _existing_versions(client, name)
        raise ValueError(f"{uri}: no such registered model version; {existing}") from error


def _existing_versions(client: MlflowClient, name: str) -> str:
    """The model's versions and aliases, or the names of all models where there is no such model."""
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException:
        names = [model.name for model in client.search_registered_models()]
        shown = ", ".join(name for name in names if not name.endswith((SUFFIX, _HISTORY_SUFFIX)))
        return f"there are the models: {shown or 'none yet; jobs.train registers them'}"
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name='{name}'"))
    shown = ", ".join([*map(str, versions), *(f"@{alias}" for alias in sorted(aliases))])
    return f"{name} has: {shown}"


def find_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points at, None when there is no such alias."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def fetch_bundle(client: MlflowClient, version: ModelVersion, target: Path) -> Path:
    """Download a version into the folder `target` and return its bundle's folder.

    Raises ValueError when it is not in the artifact store.
    """
    uri = f"models:/{version.name}/{version.version}"
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target))
        return bundle_in(target)
    except (MlflowException, OSError) as error:
        raise ValueError(f"{uri} is not in the artifact store ({error})") from error


def bundle_in(downloaded: Path) -> Path:
    """The folder of the bundle in a downloaded version."""
    # Its name is the one that it was logged with; it is the only artifact.
    [bundle] = (downloaded / "artifacts").iterdir()
    return bundle


def set_champion_aliases(
    client: MlflowClient,
    name: str,
    champion: str | None,
    *,
    previous: str | None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Point the aliases `champion` and `previous` at versions, None deletes one. Hold the lock for it.

    `previous` first, so that `champion` changes in one step. `check` (the lock's) is called before
    each of the two and after them.
    """
    for alias, version in ((PREVIOUS, previous), (CHAMPION, champion)):
        check()
        if version is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, version)
    check()


def measure_version(
    client: MlflowClient, version: ModelVersion, run_id: str, metrics: Mapping[str, float]
) -> None:
    """Log metrics of an evaluation run for a version, so that its page shows them; once a run."""
    model_id = version.tags.get(_LOGGED_MODEL)
    if model_id is None:
        return
    known = client.get_logged_model(model_id).metrics or []
    if any(metric.run_id == run_id for metric in known):
        return
    run, now_ms = client.get_run(run_id), int(1000 * time.time())
    dataset = next((used.dataset for used in run.inputs.dataset_inputs), None)
    on = {"dataset_name": dataset.name, "dataset_digest": dataset.digest} if dataset else {}
    values = [
        Metric(name, value, now_ms, 0, model_id=model_id, run_id=run_id, **on)
        for name, value in metrics.items()
    ]
    client.log_batch(run_id, metrics=values)


def describe_version(client: MlflowClient, version: ModelVersion, text: str) -> None:
    """Set a version's description, in Markdown."""
    client.update_model_version(version.name, version.version, text[:_MAX_DESCRIPTION_CHARS])


def describe_model(client: MlflowClient, name: str, text: str) -> None:
    """Set a registered model's description, in Markdown."""
    client.update_registered_model(name, text[:_MAX_DESCRIPTION_CHARS])


def tag_version(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)


def write_event(
    client: MlflowClient, name: str, number: int, event: Mapping[str, Any], *, token: str = ""
) -> None:
    """Write event `number` of the history of `name`: a tag each, of the registered model NAME.promotions.

    Tags have no compare-and-set: the lock's `token` distinguishes two events of one number.
    """
    text = json.dumps(event)
    if len(text) > _MAX_EVENT_CHARS:
        raise ValueError(
            f"the event of a promotion has {len(text)} characters, {_MAX_EVENT_CHARS} fit; "
            "give a shorter reason"
        )
    key = f"{_EVENT_PREFIX}{number:05d}" + (f".{token}" if token else "")
    about = f"The history of {name}, a tag for each event: python -m jobs.promote history {name}"
    _create_model(client, name + _HISTORY_SUFFIX, about)
    client.set_registered_model_tag(name + _HISTORY_SUFFIX, key, text)


def _create_model(client: MlflowClient, name: str, description: str | None = None) -> None:
    """Create a registered model, unless it is there."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def read_events(client: MlflowClient, name: str) -> dict[int, dict[str, Any]]:
    """The history of `name`, numbered from 1, oldest first. Raises ValueError without such a model."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        raise ValueError(f"no registered model {name!r} ({error.message})") from error
    try:
        tags = client.get_registered_model(name + _HISTORY_SUFFIX).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        tags = {}
    keys = sorted(key for key in tags if key.startswith(_EVENT_PREFIX))
    try:
        return {number: json.loads(tags[key]) for number, key in enumerate(keys, start=1)}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the promotion events of {name!r} are not JSON ({error}); correct that tag of the "
            f"registered model {name}{_HISTORY_SUFFIX} in MLflow ({_EVENT_PREFIX}…), or delete it"
        ) from error


class LostLockError(ValueError):
    """The lock of a promotion was broken by another one, or timed out."""


@dataclass(frozen=True)
class Lock:
    """The lock of one model's promotions, until `expires_s` or until the lease is broken."""

    lease: Lease
    name: str
    expires_s: float

    @property
    def token(self) -> str:
        """Identifies this promotion."""
        return self.lease.token

    def check(self) -> None:
        """Raise LostLockError when the lock was broken or has timed out; call it before each change."""
        if not self.lease.is_held() or time.time() > self.expires_s:
            raise LostLockError(
                f"this promotion of {self.name!r} lost its lock (broken by another one, or held for "
                "too long)"
            )


@contextmanager
def promotion_lock(
    client: MlflowClient,
    name: str,
    *,
    holder: str,
    break_lock: bool = False,
    lease_s: float = LOCK_LEASE_S,
) -> Iterator[Lock]:
    """Lock the promotions of `name` in the whole registry. Raises ValueError when another holds it.

    The lock is the lease `<name>.promotion-lock`. One that has timed out is broken, and any with
    `break_lock`; its holder, if alive, finds out at `Lock.check`.
    """
    lock = _acquire(client, name, holder, break_lock, lease_s)
    try:
        yield lock
    finally:
        lock.lease.release()


def _acquire(
    client: MlflowClient, name: str, holder: str, break_lock: bool, lease_s: float
) -> Lock:
    held = read_lease(client, name + _LOCK_SUFFIX)
    if held is not None and (break_lock or age_s(held) > float(held.tags["lease_s"])):
        delete_lease(client, name + _LOCK_SUFFIX)
    expires_s = time.time() + lease_s
    lease = create_lease(
        client,
        name + _LOCK_SUFFIX,
        {"holder": holder, "lease_s": str(lease_s)},
        description=f"A promotion of {name} is under way.",
    )
    if not isinstance(lease, Lease):
        raise ValueError(_refusal(name, lease))
    return Lock(lease, name, expires_s)


def _refusal(name: str, held: RegisteredModel) -> str:
    left_s = max(0.0, float(held.tags["lease_s"]) - age_s(held))
    return (
        f"another promotion of {name!r} is under way, by {held.tags['holder']} since "
        f"{age_s(held):.0f} s; try again after it. If it died: its lock runs out in {left_s:.0f} s, "
        "--break-lock breaks it now"
    )


def _parse_uri(uri: str) -> tuple[str, str, str]:
    body = uri.removeprefix("models:/")
    name, _, alias = body.partition("@")
    if alias:
        return name, alias, ""
    name, _, number = body.partition("/")
    if not (uri.startswith("models:/") and name and number.isdigit()):
        raise ValueError(f"{uri!r}: give models:/NAME@ALIAS or models:/NAME/VERSION")
    return name, "", number
