"""MLflow runs: opened by the driver, logged to once a report, found again by their configuration."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from infra.metrics import tell_training
from infra.settings import Settings, bind_run, job_tags, masked

# One name for the whole product: runs are told apart by their tags.
EXPERIMENT = "ivif-fusion"
_MAX_PARAM_CHARS = 6000


class DatasetRef(BaseModel):
    """The dataset version that a run reads, as MLflow is told of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    uri: str


def connect(settings: Settings) -> MlflowClient:
    """Point MLflow at the settings' store, make the experiment if need be, return a client.

    Raises ValueError when the store does not answer.
    """
    # A new sqlite file is migrated by alembic, which tells of every step.
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(settings.tracking_uri)
    client = MlflowClient()
    try:
        if settings.tracking_uri.startswith("http"):
            # Asked first, because MLflow's own calls go on trying for minutes.
            requests.get(
                f"{settings.tracking_uri.rstrip('/')}/health", timeout=10
            ).raise_for_status()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=settings.artifact_root)
    except (MlflowException, requests.RequestException) as error:
        raise ValueError(
            f"MLflow at {masked(settings.tracking_uri)} does not answer ({masked(str(error))}); "
            "set MLFLOW_TRACKING_URI"
        ) from error
    return client


def experiment_id(client: MlflowClient) -> str:
    """Id of the product's experiment."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None, "connect() makes it"
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
    """Open a run, or the one of the same `config_digest` tag again when it did not finish."""
    digest = tags.get("config_digest")
    before = find_run(client, digest) if digest else None
    if before and before.info.status != "FINISHED":
        bind_run(before.info.run_id)
        client.update_run(before.info.run_id, status="RUNNING")
        for key, value in {"resumed": "true", **job_tags()}.items():
            client.set_tag(before.info.run_id, key, value)
        return before
    run = client.create_run(experiment_id(client), run_name=name, tags={**tags, **job_tags()})
    bind_run(run.info.run_id)
    params = [Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in flatten(config).items()]
    for start in range(0, len(params), 100):  # MLflow takes 100 a call
        client.log_batch(run.info.run_id, params=params[start : start + 100])
    if dataset:
        client.log_inputs(run.info.run_id, [_dataset_input(dataset)])
    return run


def _dataset_input(dataset: DatasetRef) -> DatasetInput:
    source_type = "s3" if dataset.uri.startswith("s3://") else "local"
    source = json.dumps({"uri": dataset.uri})
    entity = Dataset(dataset.name, dataset.digest, source_type=source_type, source=source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `a.b.c` keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class ReportLogger:
    """Logs each report of a DDP run once. Travels to Ray Train's controller.

    After a restart the steps since the last checkpoint are trained again, to the same numbers; they
    are not logged again.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._tracking_uri, self._run_id = tracking_uri, run_id
        self._last_step: int | None = None

    def __call__(self, metrics_per_rank: Sequence[Mapping[str, float]]) -> None:
        """Log the ranks' mean of every metric, and their sum of samples per second."""
        client = MlflowClient(self._tracking_uri)
        if self._last_step is None:
            history = client.get_metric_history(self._run_id, "loss")
            self._last_step = max((metric.step for metric in history), default=0)
        merged = merge_ranks(metrics_per_rank)
        tell_training(self._run_id, merged, metrics_per_rank)
        step = int(merged.pop("step"))
        if step > self._last_step:
            log_metrics(client, self._run_id, merged, step=step)
            self._last_step = step


def merge_ranks(metrics_per_rank: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over ranks, but the sum for samples per second."""
    num_ranks = len(metrics_per_rank)
    merged = {
        name: sum(metrics[name] for metrics in metrics_per_rank) / num_ranks
        for name in metrics_per_rank[0]
    }
    merged["samples_per_s"] *= num_ranks
    return merged


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


def log_json(client: MlflowClient, run_id: str, value: Mapping[str, Any], path: str) -> None:
    """Log a JSON value as the artifact `path` of a run."""
    client.log_dict(run_id, dict(value), path)


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
    """Mark a run as finished; what stopped an earlier try at it is forgotten."""
    if tags:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if "failure" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "failure")
    client.set_terminated(run_id, "FINISHED")


def fail_run(client: MlflowClient, run_id: str, error: BaseException) -> None:
    """Mark a run as killed by a person, or as failed, and say why."""
    # Ray turns an interrupt into SystemExit.
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    reason = "interrupted" if killed else str(error) or type(error).__name__
    client.set_tag(run_id, "failure", reason[:_MAX_PARAM_CHARS])
    client.set_terminated(run_id, "KILLED" if killed else "FAILED")
