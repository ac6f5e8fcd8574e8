"""Reports of a training in its MLflow run: each step once, and none lost while MLflow is away."""

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

from infra.prometheus import tell_training
from infra.registry.tracking import NO_ANSWER, asked_once

# Reports that could not be logged yet: their file, how many there may be, when the next try is due.
_UNLOGGED, _MOST_WAITING, _PAUSE_S = "unlogged.json", 10_000, 5.0


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
