"""MLflow runs: opened by the driver, logged to once a report, found again by their configuration."""

from __future__ import annotations

import base64
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from pydantic import BaseModel, ConfigDict

from infra.metrics import tell_training
from infra.settings import Settings, bind_run, job_tags, masked

# One name for the whole product: runs are told apart by their tags.
EXPERIMENT = "ivif-fusion"
_MAX_PARAM_CHARS = 6000
# What the client raises when the store is out of reach.
NO_ANSWER = (MlflowException, requests.RequestException)
# Reports that could not be logged yet: their file, how many there may be, when the next try is due.
_UNLOGGED, _MOST_WAITING, _PAUSE_S = "unlogged.json", 10_000, 5.0


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
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
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
    except NO_ANSWER as error:
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
        run = before
    else:
        run = client.create_run(experiment_id(client), run_name=name, tags={**tags, **job_tags()})
        bind_run(run.info.run_id)
    # What an old run lacks, too: who opened it may have died before these. MLflow changes no value.
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


class Kept(Protocol):
    """A folder whose files outlive this process."""

    @property
    def uri(self) -> str:
        """Where it is."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file, over what has the name."""


class _Report(NamedTuple):
    """One report, as it was at its time: sent twice it is stored once."""

    step: int
    time_ms: int
    metrics: dict[str, Any]


class ReportLogger:
    """Logs each report of a DDP run once, in order of steps, with its pictures.

    Travels to Ray Train's controller.

    After a restart the steps since the last checkpoint are trained again, to the same numbers; they
    are not logged again. While MLflow does not answer, training goes on: reports wait, in `kept` too,
    so that neither this process nor the driver may lose them, and are logged when it answers.
    """

    def __init__(
        self, tracking_uri: str, run_id: str, kept: Kept, *, patience_s: float = 300.0
    ) -> None:
        self._tracking_uri, self._run_id, self._kept = tracking_uri, run_id, kept
        self._patience_s = patience_s
        self._waiting: list[_Report] | None = None
        self._last_step: int | None = None
        self._next_try_s = 0.0

    def __call__(self, metrics_per_rank: Sequence[Mapping[str, Any]]) -> None:
        """Log what `merge_ranks` makes of it."""
        if self._waiting is None:
            self._waiting = self._read_kept()
        merged = merge_ranks(metrics_per_rank)
        tell_training(self._run_id, merged, metrics_per_rank)
        step = int(merged.pop("step"))
        if self._waiting and step <= self._waiting[-1].step:
            return
        self._waiting.append(_Report(step, int(1000 * time.time()), merged))
        if time.monotonic() < self._next_try_s or not self._log_waiting():
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[1::2]  # half as fine a curve, and bounded memory
            self._kept.replace(_UNLOGGED, json.dumps(self._waiting).encode())

    def close(self) -> None:
        """Log what still waits. Raises ConnectionError when MLflow does not answer for `patience_s`."""
        if self._waiting is None:
            self._waiting = self._read_kept()
        given_up_s = time.monotonic() + self._patience_s
        while self._waiting and not self._log_waiting():
            if time.monotonic() > given_up_s:
                raise ConnectionError(
                    f"MLflow at {self._tracking_uri} does not answer; the training is done, its "
                    f"checkpoint and {len(self._waiting)} reports are kept in {self._kept.uri}: "
                    "say the same command again when it answers"
                )
            time.sleep(1.0)

    def _log_waiting(self) -> bool:
        """Log what waits, if MLflow answers."""
        assert self._waiting is not None
        client, was_out = MlflowClient(self._tracking_uri), self._next_try_s > 0
        try:
            with asked_once(self._tracking_uri):
                if self._last_step is None:
                    history = client.get_metric_history(self._run_id, "loss")
                    self._last_step = max((metric.step for metric in history), default=0)
                while self._waiting:
                    first = self._waiting[0]
                    if first.step > self._last_step:
                        _log_report(client, self._run_id, first)
                        self._last_step = first.step
                    del self._waiting[0]
        except NO_ANSWER:
            self._next_try_s = time.monotonic() + _PAUSE_S
            return False
        if was_out:
            self._kept.replace(_UNLOGGED, b"[]")
            self._next_try_s = 0.0
        return True

    def _read_kept(self) -> list[_Report]:
        """What an earlier process could not log."""
        try:
            reports = [_Report(*report) for report in json.loads(self._kept.read(_UNLOGGED))]
        except FileNotFoundError:
            return []
        self._next_try_s = time.monotonic() * bool(reports)  # it is to be emptied
        return reports


def _log_report(client: MlflowClient, run_id: str, report: _Report) -> None:
    numbers = log_pictures(client, run_id, report.metrics, step=report.step)
    metrics = [Metric(name, value, report.time_ms, report.step) for name, value in numbers.items()]
    client.log_batch(run_id, metrics=metrics)


@contextmanager
def asked_once(tracking_uri: str) -> Iterator[None]:
    """Let MLflow's client give up in seconds where by itself it would go on trying for minutes."""
    if tracking_uri.startswith("http"):
        health = f"{tracking_uri.rstrip('/')}/health"
        requests.get(health, timeout=2).raise_for_status()
    limits = {MLFLOW_HTTP_REQUEST_TIMEOUT: 10, MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0}
    before = {variable: variable.get_raw() for variable in limits}
    for variable, value in limits.items():
        variable.set(value)
    try:
        yield
    finally:
        for variable, old in before.items():
            variable.unset() if old is None else variable.set(old)


def merge_ranks(metrics_per_rank: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over ranks, but the sum of what is per second, and the largest peak.

    A text, which is a picture, comes from the one rank that has it.
    """
    names = dict.fromkeys(name for metrics in metrics_per_rank for name in metrics)
    return {
        name: _merge(name, [metrics[name] for metrics in metrics_per_rank if name in metrics])
        for name in names
    }


def _merge(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], str):
        return values[0]
    if name.endswith("_per_s"):
        return sum(values)
    return max(values) if "_peak_" in name else sum(values) / len(values)


def log_pictures(
    client: MlflowClient, run_id: str, metrics: Mapping[str, Any], *, step: int
) -> dict[str, float]:
    """Log every text among the metrics, a PNG in base64, as `<name>/step-<step>.png`; return the rest.

    A picture that is logged again takes the place of the first.
    """
    numbers = dict(metrics)
    for name in [name for name, value in metrics.items() if isinstance(value, str)]:
        with tempfile.TemporaryDirectory(prefix="picture-") as scratch:
            file = Path(scratch) / f"step-{step:08d}.png"
            file.write_bytes(base64.b64decode(numbers.pop(name)))
            client.log_artifact(run_id, str(file), name)
    return numbers


@contextmanager
def system_metrics(client: MlflowClient, run_id: str, *, every_s: float = 10.0) -> Iterator[None]:
    """Log CPU, memory, disk and network of this machine (and its GPUs, with pynvml) for the block.

    As `system/…`, going on from the run's last such step.
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


def log_file(client: MlflowClient, run_id: str, file: Path) -> None:
    """Log a file as an artifact of its name."""
    client.log_artifact(run_id, str(file))


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
    """Mark a run as killed by a person, or as failed, and say why.

    Where MLflow does not answer the run stays as it is, and the error is the one to be told.
    """
    # Ray turns an interrupt into SystemExit.
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    reason = "interrupted" if killed else str(error) or type(error).__name__
    try:
        with asked_once(client.tracking_uri):
            client.set_tag(run_id, "failure", reason[:_MAX_PARAM_CHARS])
            client.set_terminated(run_id, "KILLED" if killed else "FAILED")
    except NO_ANSWER as no_answer:
        warnings.warn(f"run {run_id} could not be marked as failed: {no_answer}", stacklevel=2)
