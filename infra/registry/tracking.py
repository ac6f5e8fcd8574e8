"""MLflow runs: open, resume by the configuration's digest, log, read, end."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_TRACKING_CLIENT_CERT_PATH,
    MLFLOW_TRACKING_INSECURE_TLS,
    MLFLOW_TRACKING_SERVER_CERT_PATH,
)
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME
from pydantic import BaseModel, ConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from infra.reachable import check_port
from infra.settings import (
    DATABASE_PORTS,
    Settings,
    bind_run,
    experiment_name,
    job_tags,
    masked,
)

# Tags that say which code a run is by: the commit, and a digest of what decides its numbers.
COMMIT_TAG, CODE_TAG = CODE_TAGS = ("git_commit", "code_sha256")
_MAX_PARAM_CHARS = 6000
_MAX_REASON = 600
# What the client raises when the store is unreachable.
NO_ANSWER = (MlflowException, requests.RequestException)


class DatasetRef(BaseModel):
    """The dataset that a run reads, for MLflow: a dataset version, or the scenes of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    uri: str
    context: Literal["training", "evaluation"] = "training"


def connect(settings: Settings) -> MlflowClient:
    """Point MLflow at the settings' store, create the experiment if need be, return a client.

    Raises ValueError when the store does not answer.
    """
    # A new sqlite file is migrated by alembic, which logs every step.
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        check_reachable(settings.tracking_uri, timeout_s=10)
        _check_database(settings.tracking_uri)
        client = MlflowClient()
        found = client.get_experiment_by_name(experiment_name())
        if found is None:
            client.create_experiment(experiment_name(), artifact_location=settings.artifact_root)
    except (*NO_ANSWER, OSError) as error:
        reason = masked(" ".join(str(error).split()))[:_MAX_REASON]
        raise ValueError(
            f"MLflow at {masked(settings.tracking_uri)} does not answer ({reason}); "
            "set MLFLOW_TRACKING_URI (and MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD; for "
            "certificates of an authority of your own MLFLOW_TRACKING_SERVER_CERT_PATH)"
        ) from error
    if found and found.lifecycle_stage != "active":
        raise ValueError(
            f"the experiment {found.name!r} of MLflow at {masked(settings.tracking_uri)} was deleted; "
            f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    if found and settings.artifact_root:
        _check_not_moved(found.artifact_location, settings.artifact_root)
    return client


def _check_not_moved(recorded: str, here: str) -> None:
    """Raise ValueError where a work folder was moved: MLflow records absolute paths of artifacts."""
    old = Path(recorded.removeprefix("file://"))
    if "://" not in str(old) and not old.exists() and Path(here).exists() and old != Path(here):
        raise ValueError(
            f"MLflow's artifacts were at {old} when this store was made, and are at {here} now; move "
            f"the work folder back, or link it: ln -s {Path(here).parent} {old.parent}"
        )


def experiment_id(client: MlflowClient) -> str:
    """Id of the experiment that runs are logged to: tags distinguish them."""
    experiment = client.get_experiment_by_name(experiment_name())
    assert experiment is not None, "connect() creates it"
    return str(experiment.experiment_id)


def find_run(client: MlflowClient, config_digest: str) -> Run | None:
    """The newest run of a configuration, None when it never ran."""
    found = client.search_runs(
        [experiment_id(client)], f"tags.config_digest = '{config_digest}'", max_results=1
    )
    return found[0] if found else None


def open_run(
    client: MlflowClient,
    *,
    name: str,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    dataset: DatasetRef | None = None,
) -> Run:
    """Open a run; resume the one with the same `config_digest` tag if it did not finish.

    A run that is resumed by other code keeps the tags of both, in order: `git_commit` is "A, B" then.
    """
    digest = tags.get("config_digest")
    before = find_run(client, digest) if digest else None
    if before and before.info.status != "FINISHED":
        bind_run(before.info.run_id)
        client.update_run(before.info.run_id, status="RUNNING")
        resumed = {"resumed": "true", **job_tags(), **_code_of_both(before.data.tags, tags)}
        for key, value in resumed.items():
            client.set_tag(before.info.run_id, key, value)
        run = before
    else:
        # With user and source, as MLflow's own `start_run` has them.
        known = resolve_tags({**tags, **job_tags(), MLFLOW_SOURCE_NAME: _command()})
        run = client.create_run(experiment_id(client), run_name=name, tags=known)
        bind_run(run.info.run_id)
    # A resumed run may lack some: its driver may have died before. MLflow never changes a parameter.
    params = [
        Param(key, str(value)[:_MAX_PARAM_CHARS])
        for key, value in flatten(config).items()
        if key not in run.data.params
    ]
    for start in range(0, len(params), 100):  # MLflow takes 100 a call
        client.log_batch(run.info.run_id, params=params[start : start + 100])
    if dataset and not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run.info.run_id, [_dataset_input(dataset)])
    return run


def _command() -> str:
    """What runs, as `jobs.train`; MLflow itself would write where that lies on this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name).removesuffix(".__main__") if spec else Path(sys.argv[0]).name


def _code_of_both(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The tags of the code that changed since a run was last opened, old and new."""
    changed = {
        key: (before.get(key), now[key])
        for key in CODE_TAGS
        if key in now and (before.get(key) or "").split(", ")[-1] != now[key]
    }
    return {key: ", ".join(filter(None, both)) for key, both in changed.items()}


def _dataset_input(dataset: DatasetRef) -> DatasetInput:
    source_type = "s3" if dataset.uri.startswith("s3://") else "local"
    source = json.dumps({"uri": dataset.uri})
    entity = Dataset(dataset.name, dataset.digest, source_type=source_type, source=source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `a.b.c` keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_reachable(tracking_uri: str, *, timeout_s: float = 2.0) -> None:
    """Raise one of `NO_ANSWER` when an MLflow server is unreachable; its client would retry for minutes."""
    if tracking_uri.startswith("http"):
        # Whatever comes back: a proxy may ask for a password first, or know no such path.
        answer = requests.get(
            f"{tracking_uri.rstrip('/')}/health",
            timeout=timeout_s,
            verify=MLFLOW_TRACKING_SERVER_CERT_PATH.get() or not MLFLOW_TRACKING_INSECURE_TLS.get(),
            cert=MLFLOW_TRACKING_CLIENT_CERT_PATH.get(),
        )
        if answer.status_code >= 500:
            answer.raise_for_status()


def _check_database(tracking_uri: str) -> None:
    """Raise OSError when a database cannot be opened; MLflow would try for two minutes."""
    if tracking_uri.startswith("http"):
        return
    # Here, because it takes a second that a server's clients need not wait for.
    from mlflow.store.db.utils import create_sqlalchemy_engine

    try:
        url = make_url(tracking_uri)
        kind = url.get_backend_name()
        if url.host and "host" not in url.query:
            check_port(url.host, url.port or DATABASE_PORTS[kind], "the database")
        if kind == "sqlite":
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        with create_sqlalchemy_engine(tracking_uri).connect() as connection:
            if kind == "sqlite":
                # Opening reads nothing; this fails for what is no database, or cannot be written.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
    except (SQLAlchemyError, ImportError) as error:
        reason = getattr(error, "orig", None) or error
        if "locked" not in str(reason):  # another process writes, so it can be written
            raise OSError(str(reason)) from error


@contextmanager
def without_retries(tracking_uri: str) -> Iterator[None]:
    """Let MLflow's client fail in seconds, where by default it retries for minutes."""
    check_reachable(tracking_uri)
    limits = {MLFLOW_HTTP_REQUEST_TIMEOUT: 10, MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0}
    before = {variable: variable.get_raw() for variable in limits}
    for variable, value in limits.items():
        variable.set(value)
    try:
        yield
    finally:
        for variable, old in before.items():
            variable.unset() if old is None else variable.set(old)


@contextmanager
def system_metrics(client: MlflowClient, run_id: str, *, every_s: float = 10.0) -> Iterator[None]:
    """Log CPU, memory, disk and network of this machine (and its GPUs, with pynvml) for the block.

    As `system/…`, continuing from the run's last such step.
    """
    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=every_s,
        resume_logging=True,
        tracking_uri=client.tracking_uri,
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def log_metrics(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], *, step: int = 0
) -> None:
    """Log all metrics of a step in one call."""
    now_ms = int(1000 * time.time())
    client.log_batch(
        run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()]
    )


def metric_curve(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in order of steps."""
    history = client.get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def run_page(client: MlflowClient, run_id: str, settings: Settings) -> str:
    """Where a server shows a run, without credentials; "" for a store that has no server."""
    uri = masked(settings.tracking_uri).replace("***@", "").rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{uri}/#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"


def run_tags_of(client: MlflowClient, run_id: str | None) -> dict[str, str] | None:
    """A run's tags; None without an id, or when the run is gone or was deleted."""
    run = _read_run(client, run_id)
    return dict(run.data.tags) if run else None


def run_params_of(client: MlflowClient, run_id: str | None) -> dict[str, str]:
    """A run's parameters, in order of name; none when there is no such run."""
    run = _read_run(client, run_id)
    return dict(sorted(run.data.params.items())) if run else {}


def run_metrics_of(client: MlflowClient, run_id: str | None, *, prefix: str) -> dict[str, float]:
    """A run's newest metrics whose names begin with `prefix`, without it, in order of name."""
    run = _read_run(client, run_id)
    metrics = run.data.metrics if run else {}
    found = {name: value for name, value in metrics.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): found[name] for name in sorted(found)}


def _read_run(client: MlflowClient, run_id: str | None) -> Run | None:
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def last_picture_of(client: MlflowClient, run_id: str | None, folder: str) -> str | None:
    """Where MLflow's pages find the last picture in an artifact folder of a run; None if it has none."""
    if _read_run(client, run_id) is None:
        return None
    paths = sorted(file.path for file in client.list_artifacts(str(run_id), folder))
    query = urlencode({"path": paths[-1], "run_uuid": run_id}) if paths else ""
    return f"get-artifact?{query}" if paths else None


def log_folder(client: MlflowClient, run_id: str, folder: Path, name: str) -> None:
    """Log a folder as the artifact folder `name`."""
    client.log_artifacts(run_id, str(folder), name)


def fetch_folder(run_id: str, name: str, target: Path) -> Path:
    """Download the artifact folder `name` of a run. Raises ValueError when there is none."""
    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=name, dst_path=str(target)
            )
        )
    except (MlflowException, OSError) as error:
        raise ValueError(f"run {run_id!r} has no artifact {name!r} ({error})") from error


def finish_run(client: MlflowClient, run_id: str, *, tags: Mapping[str, str] | None = None) -> None:
    """Mark a run as finished; delete the reason of an earlier failure."""
    if tags:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if "failure" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "failure")
    client.set_terminated(run_id, "FINISHED")


def fail_run(client: MlflowClient, run_id: str, error: BaseException) -> None:
    """Mark a run as killed by a person, or as failed, with the reason.

    Where MLflow does not answer, the run stays as it is, with a warning.
    """
    # Ray turns an interrupt into SystemExit.
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    reason = "interrupted" if killed else str(error) or type(error).__name__
    try:
        with without_retries(client.tracking_uri):
            client.set_tag(run_id, "failure", reason[:_MAX_PARAM_CHARS])
            client.set_terminated(run_id, "KILLED" if killed else "FAILED")
    except NO_ANSWER as no_answer:
        warnings.warn(f"run {run_id} could not be marked as failed: {no_answer}", stacklevel=2)
