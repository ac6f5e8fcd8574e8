"""A DDP loop on Ray Train: its checkpoints, its reports, and the errors that end it."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray.train
import ray.train.torch
from ray.exceptions import RayTaskError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from infra.cluster.connect import worker_environment
from infra.cluster.nodes import PlacementTimeout, log_lost_nodes, wait_for_resources
from infra.cluster.ray_internals import leave_out_helpers, placement_callback
from infra.cluster.run_folder import (
    RunFolder,
    check_seen_by_all,
    fetched_checkpoint,
    older_checkpoints,
)
from infra.logs import log_event
from infra.settings import Settings, log_environment
from infra.signals import handlers_kept

# How often workers may die in a run; a node that was drained first does not count.
MAX_FAILURES = 3
# What gloo and NCCL say when they took an interface that leads nowhere.
_NO_MESH = re.compile(
    r"connectFullMesh failed|Unable to find address for: \S+|[Cc]onnect timeout[^\n]{0,80}"
    r"|Bootstrap : no socket interface found"
)
# How long ranks wait for one that does not come, before the run is restarted from its last checkpoint: a
# GPU's ranks (NCCL) would wait for half an hour. Ranks differ by a compilation, or a slow first shard.
_COLLECTIVE_TIMEOUT_S = 600
# What every rank reports last.
_ENDED = {"ended": 1.0}


class OnReport(Protocol):
    """What Ray Train's controller calls with the reports of all ranks."""

    def __call__(self, metrics_per_rank: list[dict[str, float]]) -> None:
        """Take one report of all ranks."""

    def close(self) -> None:
        """The loop has ended on every rank; what was put off has to be done now."""


def run_ddp(
    loop: Callable[..., None],
    *,
    name: str,
    settings: Settings,
    num_workers: int,
    resources: Mapping[str, float],
    on_report: OnReport,
) -> Checkpoint:
    """Run `loop(rank=, world_size=, device=, resume=, report=)` on `num_workers` DDP workers.

    `resources` are those of each, `{"CPU": 4}` or `{"CPU": 4, "GPU": 1}`; with a GPU it computes there.
    `resume` iterates over checkpoint folders, the newest first, none at the start. Returns the last
    checkpoint; `fetched_checkpoint` gives its folder. The same `name` under the same `settings.runs`
    resumes, and trains nothing when it had finished; so a name must hold a digest of its configuration.
    A worker that dies is restarted, `MAX_FAILURES` times; an error that would recur is not retried.
    A node that is gone, or that an autoscaler is to add, is waited for, `settings.node_wait_s`.
    Raises ValueError then, or at once when the cluster can never hold the workers, and OSError when
    the storage is full or out of reach; the last complete checkpoint is kept.
    """
    resource, timeout_s = "GPU" if "GPU" in resources else "CPU", settings.node_wait_s
    num_needed = int(num_workers * resources[resource])
    wait_for_resources(num_needed, resource, timeout_s=timeout_s)
    run = RunFolder(settings.runs, name, settings.s3_endpoint_url)
    run.check_reachable()
    _repair(run)
    check_seen_by_all(settings.runs, resource)
    timer = PlacementTimeout(num_needed, resource, timeout_s)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"loop": loop},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu="GPU" in resources,
            resources_per_worker=dict(resources),
        ),
        run_config=_run_config(run, settings, on_report, timer),
    )
    leave_out_helpers(trainer, is_embedded=settings.ray_address is None)
    try:
        with handlers_kept(), log_lost_nodes(num_needed, resource, timeout_s=timeout_s):
            result = trainer.fit()
    except SystemExit as stop:  # Ray Train's own handler of an interrupt, with status 0
        raise KeyboardInterrupt from stop
    except ray.train.TrainingFailedError as error:
        raise _root_cause(error, run) from error
    _repair(run)
    assert result.checkpoint is not None
    return result.checkpoint


def _run_config(
    run: RunFolder, settings: Settings, on_report: OnReport, timer: PlacementTimeout
) -> RunConfig:
    """Where a run keeps its checkpoints, how many, and when it gives up."""
    filesystem, path = run.open()
    return RunConfig(
        name=run.name,
        storage_path=path,
        storage_filesystem=filesystem,
        # No limit on attempts to place the workers: that is the timer's.
        failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=-1),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        callbacks=[_ReportCallback(on_report, run), placement_callback(timer)],
        worker_runtime_env={"env_vars": worker_environment(settings) | log_environment()},
    )


def _repair(run: RunFolder) -> None:
    """Repair a run's folder; warn of what was deleted."""
    orphans = run.repair()
    if orphans:
        warnings.warn(
            f"{run.uri}: deleted {len(orphans)} checkpoints that were not finished", stacklevel=3
        )


def _run_worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        log_event("report", rank=context.get_world_rank(), **numbers)  # a text is a picture
        checkpoint = Checkpoint.from_directory(str(folder)) if folder else None
        ray.train.report(metrics, checkpoint=checkpoint)

    checkpoint = ray.train.get_checkpoint()
    config["loop"](
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        # Workers of one node see all its GPUs; each has one of them.
        device=str(ray.train.torch.get_device()),
        resume=_CheckpointFolders(checkpoint) if checkpoint else (),
        report=report,
    )
    # Every rank has to report it: the controller waits for all of them.
    ray.train.report(_ENDED)


@dataclass(frozen=True)
class _CheckpointFolders:
    """Folders of a run's checkpoints, the newest first; the others are for when it is damaged."""

    newest: Checkpoint

    def __iter__(self) -> Iterator[Path]:
        """Fetch one after the other; each is deleted when the next is asked for."""
        with fetched_checkpoint(self.newest) as folder:
            yield folder
        yield from older_checkpoints(self.newest)


class _ReportCallback(UserCallback):
    """Calls `on_report` in the controller, exactly once a report."""

    def __init__(self, on_report: OnReport, run: RunFolder) -> None:
        self._on_report, self._run = on_report, run

    def after_report(
        self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Any
    ) -> None:
        """Ray Train calls this when every rank has reported."""
        if metrics[0] == _ENDED:
            self._on_report.close()
            return
        if checkpoint:
            self._run.back_up_list()
        self._on_report(metrics)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """End the run on an error that would recur: what is raised here is not retried."""
        for error in worker_exceptions.values():
            if _would_recur(error):
                raise error


def _would_recur(error: BaseException) -> bool:
    """Whether a retry would fail in the same way: bad input, or no space left."""
    return isinstance(error, ValueError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    )


def _root_cause(error: BaseException, run: RunFolder) -> BaseException:
    """The error of a worker or the controller where it tells a person what to do, else `error`."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    failures.append(getattr(error, "controller_failure", None))
    for failure in failures:
        cause = failure.cause if isinstance(failure, RayTaskError) else failure
        if isinstance(cause, OSError) and _would_recur(cause):
            where = f"{run.uri} or the temporary folder that it is written to first: {cause}"
            return OSError(
                cause.errno,
                f"no checkpoint could be written; the last complete one is kept ({where}); "
                "make room and run the same command again",
            )
        if isinstance(cause, ValueError | ConnectionError):
            return cause
        if _NO_MESH.search(str(cause)):
            return ConnectionError(
                "the workers do not reach each other: each node took an address that the others "
                "cannot reach; name the network interface that they share with FUSION_INTERFACE "
                f"(`ip -brief address` lists them), such as eth0 ({_NO_MESH.findall(str(cause))[0]})"
            )
    return error
