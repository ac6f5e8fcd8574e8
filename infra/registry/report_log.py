"""Logs a training's reports to its MLflow run: each step once, none lost while MLflow is down."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mlflow import MlflowClient
from mlflow.entities import Metric

from infra.prometheus import export_report
from infra.registry.tracking import NO_ANSWER, without_retries

# Reports that could not be logged yet: their file, their maximum number, the pause between retries.
_UNLOGGED, _MAX_WAITING, _RETRY_S = "unlogged.json", 10_000, 5.0


class DurableFolder(Protocol):
    """A folder whose files outlive this process."""

    @property
    def uri(self) -> str:
        """Its path or s3:// URI."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file, or replace it."""


class _Report(NamedTuple):
    """One report with its time: MLflow stores a row that is sent twice once."""

    step: int
    time_ms: int
    metrics: dict[str, Any]


class ReportLogger:
    """Logs each report of a DDP run once, in order of steps, with its pictures, in Ray Train's controller.

    After a restart the steps since the last checkpoint are trained again, to the same numbers; they
    are not logged again. While MLflow does not answer, training continues: reports wait in memory and
    in `folder`, so that they survive this process and the driver, and are logged when it answers.
    """

    def __init__(
        self, tracking_uri: str, run_id: str, folder: DurableFolder, *, timeout_s: float = 300.0
    ) -> None:
        self._tracking_uri, self._run_id, self._folder = tracking_uri, run_id, folder
        self._timeout_s = timeout_s
        self._waiting: list[_Report] | None = None
        self._last_step: int | None = None
        self._retry_at_s = 0.0

    def __call__(self, metrics_per_rank: Sequence[Mapping[str, Any]]) -> None:
        """Log the report that `merge_ranks` makes of all ranks'."""
        if self._waiting is None:
            self._waiting = self._read_unlogged()
        merged = merge_ranks(metrics_per_rank)
        export_report(self._run_id, merged, metrics_per_rank)
        step = int(merged.pop("step"))
        if self._waiting and step <= self._waiting[-1].step:
            return
        self._waiting.append(_Report(step, int(1000 * time.time()), merged))
        if time.monotonic() < self._retry_at_s or not self._log_waiting():
            if len(self._waiting) > _MAX_WAITING:
                del self._waiting[1::2]  # every second one: memory is bounded
            self._folder.replace(_UNLOGGED, json.dumps(self._waiting).encode())

    def close(self) -> None:
        """Log what still waits. Raises ConnectionError when MLflow does not answer for `timeout_s`."""
        if self._waiting is None:
            self._waiting = self._read_unlogged()
        deadline = time.monotonic() + self._timeout_s
        while self._waiting and not self._log_waiting():
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"MLflow at {self._tracking_uri} does not answer; the training is done, its "
                    f"checkpoint and {len(self._waiting)} reports are kept in {self._folder.uri}: "
                    "run the same command again when it answers"
                )
            time.sleep(1.0)

    def _log_waiting(self) -> bool:
        """Log what waits; False when MLflow does not answer."""
        assert self._waiting is not None
        client, was_out = MlflowClient(self._tracking_uri), self._retry_at_s > 0
        try:
            with without_retries(self._tracking_uri):
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
            self._retry_at_s = time.monotonic() + _RETRY_S
            return False
        if was_out:
            self._folder.replace(_UNLOGGED, b"[]")
            self._retry_at_s = 0.0
        return True

    def _read_unlogged(self) -> list[_Report]:
        """Reports that an earlier process could not log."""
        try:
            reports = [_Report(*report) for report in json.loads(self._folder.read(_UNLOGGED))]
        except FileNotFoundError:
            return []
        # Due now; and not 0, so that the file is emptied after the reports were logged.
        self._retry_at_s = time.monotonic() * bool(reports)
        return reports


def _log_report(client: MlflowClient, run_id: str, report: _Report) -> None:
    numbers = log_pictures(client, run_id, report.metrics, step=report.step)
    metrics = [Metric(name, value, report.time_ms, report.step) for name, value in numbers.items()]
    client.log_batch(run_id, metrics=metrics)


def merge_ranks(metrics_per_rank: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over ranks, but the sum of rates (`_per_s`) and the maximum of peaks.

    A text, which is a picture, is that of the one rank that has it.
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

    A picture that is logged again replaces the first.
    """
    numbers = dict(metrics)
    for name in [name for name, value in metrics.items() if isinstance(value, str)]:
        with tempfile.TemporaryDirectory(prefix="picture-") as scratch:
            file = Path(scratch) / f"step-{step:08d}.png"
            file.write_bytes(base64.b64decode(numbers.pop(name)))
            client.log_artifact(run_id, str(file), name)
    return numbers
