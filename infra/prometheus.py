"""Metrics for Prometheus: Ray's agents export them from every node, with the prefix `ray_`.

`infra/grafana/fusion.json` draws these; a test compares the two. Ray sends values every 10 s, so what a
process counts in its last seconds may be missing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.metrics import Counter, Gauge, Histogram, Metric

from infra.cluster.ray_internals import task_attempt
from infra.logs import log_event


@dataclass(frozen=True)
class Meter:
    """A metric: a counter only grows, a gauge is the newest value, a histogram counts by size."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    # Of a histogram: the upper ends of its classes.
    boundaries: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

    @property
    def exported(self) -> tuple[str, ...]:
        """Its names in Prometheus."""
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
            "fusion_task_seconds",
            "histogram",
            "seconds of a task, or of an actor's call",
            ("task",),
        ),
        Meter(
            "fusion_task_retries",
            "counter",
            "tasks that ran again, because a worker died",
            ("task",),
        ),
        Meter("fusion_training_step", "gauge", "optimiser steps so far", ("run",)),
        Meter("fusion_training_loss", "gauge", "mean loss since the last report", ("run",)),
        Meter("fusion_training_samples_per_s", "gauge", "samples a second, of all ranks", ("run",)),
        Meter("fusion_data_wait_share", "gauge", "share of time without a batch", ("run", "rank")),
        Meter("fusion_serve_requests", "counter", "requests to fuse", ("status",)),
        Meter(
            "fusion_serve_seconds",
            "histogram",
            "seconds from a request to its answer, its waiting included",
            ("status",),
        ),
        Meter(
            "fusion_serve_batch_pairs",
            "histogram",
            "pairs that were fused at once",
            ("version",),
            (1, 2, 4, 8, 16, 32, 64),
        ),
        Meter("fusion_serve_version", "gauge", "version that a replica serves", ("model",)),
        Meter(
            "fusion_serve_pictures",
            "counter",
            "pictures by what the model sees that their camera suffers",
            ("camera", "degradation"),
        ),
        Meter(
            "fusion_serve_distance",
            "histogram",
            "distance of pictures from the training's; 19 of 20 of those are below 1",
            ("camera",),
            (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0),
        ),
        Meter(
            "fusion_serve_drift",
            "gauge",
            "1 while too many of the last pictures are beyond distance 1",
            ("camera",),
        ),
    )
}


@functools.cache
def _metric(name: str) -> Metric:
    """One object a process and name: Ray registers each object."""
    meter = METERS[name]
    match meter.kind:
        case "counter":
            return Counter(name, meter.description, meter.tags)
        case "gauge":
            return Gauge(name, meter.description, meter.tags)
    return Histogram(name, meter.description, [*meter.boundaries], meter.tags)


def count_shard(*, num_images: int, num_bytes: int) -> None:
    """Count a shard that a task has written; called where its result arrives."""
    _count("fusion_shards", 1)
    _count("fusion_images", num_images)
    _count("fusion_bytes", num_bytes)


def export_report(
    run_id: str, merged: Mapping[str, float], per_rank: Sequence[Mapping[str, float]]
) -> None:
    """Export a training's report: the mean over ranks, and each rank's share of waiting for data."""
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


def count_request(status: int, seconds: float) -> None:
    """Count a request to fuse that was answered with an HTTP status, after so many seconds."""
    tags = {"status": str(status)}
    _count("fusion_serve_requests", 1, tags)
    if ray.is_initialized():
        _metric("fusion_serve_seconds").observe(seconds, tags=tags)


def count_batch(version: str, num_pairs: int) -> None:
    """Count pairs that a replica has fused at once."""
    if ray.is_initialized():
        _metric("fusion_serve_batch_pairs").observe(num_pairs, tags={"version": version})


def export_served(model: str, version: int) -> None:
    """Export the number of the version that this replica serves."""
    if ray.is_initialized():
        _metric("fusion_serve_version").set(version, tags={"model": model})


def count_seen(camera: str, degradation: str, distance: float) -> None:
    """Count a picture by what the model sees in it, and its distance from the training's pictures."""
    _count("fusion_serve_pictures", 1, {"camera": camera, "degradation": degradation})
    if ray.is_initialized():
        _metric("fusion_serve_distance").observe(distance, tags={"camera": camera})


def export_drift(camera: str, *, drifts: bool) -> None:
    """Export whether the pictures of a camera have drifted from the training's."""
    if ray.is_initialized():
        _metric("fusion_serve_drift").set(float(drifts), tags={"camera": camera})


@contextmanager
def task_measured(function: Callable[..., Any]) -> Iterator[None]:
    """Around a task's function in its worker: count its seconds, and whether it is a retry."""
    tags = {"task": getattr(function, "__name__", type(function).__name__)}
    if task_attempt() > 0:
        _count("fusion_task_retries", 1, tags)
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        _metric("fusion_task_seconds").observe(seconds, tags=tags)
        log_event("task", seconds=round(seconds, 3), **tags)


def _count(name: str, amount: float, tags: dict[str, str] | None = None) -> None:
    # Ray refuses to count 0, and without a cluster nothing is exported.
    if amount > 0 and ray.is_initialized():
        _metric(name).inc(amount, tags=tags)
