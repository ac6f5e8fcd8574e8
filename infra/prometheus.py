"""What Prometheus is told of us: Ray's agents export it from every node, each name with `ray_` before it.

`infra/grafana/fusion.json` draws these; a test holds the two together. Ray sends values every 10 s, so
what a process says in its last seconds may be missing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
from ray.util.metrics import Counter, Gauge, Histogram, Metric

from infra.logs import tell

_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Meter:
    """A metric: a counter only grows, a gauge is the newest value, a histogram counts by size."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    told: str
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        match self.kind:
            case "counter":
                return (f"ray_{self.name}_total",)
            case "histogram":
                return tuple(f"ray_{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (f"ray_{self.name}",)


METERS = {
    meter.name: meter
    for meter in (
        Meter("fusion_shards", "counter", "shards written"),
        Meter("fusion_images", "counter", "pictures in the shards that were written"),
        Meter("fusion_bytes", "counter", "bytes of the shards that were written"),
        Meter(
            "fusion_task_seconds", "histogram", "seconds of a task, or an actor's call", ("task",)
        ),
        Meter(
            "fusion_task_retries", "counter", "tasks that ran again, for a worker died", ("task",)
        ),
        Meter("fusion_training_step", "gauge", "optimiser steps that are done", ("run",)),
        Meter("fusion_training_loss", "gauge", "mean loss since the last report", ("run",)),
        Meter("fusion_training_samples_per_s", "gauge", "samples a second, of all ranks", ("run",)),
        Meter("fusion_data_wait_share", "gauge", "share of time without a batch", ("run", "rank")),
    )
}
_BOUNDARIES_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]


@functools.cache
def _metric(name: str) -> Metric:
    """One object a process and name: Ray registers each that is made."""
    meter = METERS[name]
    match meter.kind:
        case "counter":
            return Counter(name, meter.told, meter.tags)
        case "gauge":
            return Gauge(name, meter.told, meter.tags)
    return Histogram(name, meter.told, _BOUNDARIES_S, meter.tags)


def count_shard(*, num_images: int, num_bytes: int) -> None:
    """Count a shard that a task has written; called where its result arrives."""
    _count("fusion_shards", 1)
    _count("fusion_images", num_images)
    _count("fusion_bytes", num_bytes)


def tell_training(
    run_id: str, merged: Mapping[str, float], per_rank: Sequence[Mapping[str, float]]
) -> None:
    """Tell of a report: the ranks' mean, and how long each rank waited for its batches."""
    if not ray.is_initialized():
        return
    run = {"run": run_id}
    for key in ("step", "loss", "samples_per_s"):
        if key in merged:
            _metric(f"fusion_training_{key}").set(merged[key], tags=run)
    for rank, metrics in enumerate(per_rank):
        if "data_wait_share" in metrics:
            tags = {**run, "rank": str(rank)}
            _metric("fusion_data_wait_share").set(metrics["data_wait_share"], tags=tags)


def run_measured(function: Callable[..., _Out], *arguments: Any) -> _Out:
    """Call a task's function in its worker; tell how long it took, and whether it ran before."""
    tags = {"task": getattr(function, "__name__", type(function).__name__)}
    if _attempt() > 0:
        _count("fusion_task_retries", 1, tags)
    started = time.perf_counter()
    try:
        return function(*arguments)
    finally:
        seconds = time.perf_counter() - started
        _metric("fusion_task_seconds").observe(seconds, tags=tags)
        tell("task", seconds=round(seconds, 3), **tags)


def _attempt() -> int:
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())


def _count(name: str, amount: float, tags: dict[str, str] | None = None) -> None:
    # Ray refuses to count nothing, and without a cluster nobody would be told.
    if amount > 0 and ray.is_initialized():
        _metric(name).inc(amount, tags=tags)
