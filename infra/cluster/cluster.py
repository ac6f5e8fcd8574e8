"""Ray: connect, run tasks with a bound on what is in flight, run a DDP loop. Nothing of ours is known
here; functions are handed in and travel by reference (they live in importable modules)."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError, RayTaskError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from infra.cluster.nodes import LOOK_EVERY_S, Patience, Room, make_room, told_of_lost
from infra.cluster.run_folder import RunFolder, fetched, older_checkpoints
from infra.logs import tell
from infra.prometheus import run_measured
from infra.settings import (
    REPOSITORY,
    Settings,
    log_environment,
    look_after_connections,
    worker_environment,
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class OnReport(Protocol):
    """What Ray Train's controller tells of: every report, and that there will be no more."""

    def __call__(self, metrics_per_rank: list[dict[str, float]]) -> None:
        """Take one report of all ranks."""

    def close(self) -> None:
        """The loop has ended on every rank; what was put off has to be done now."""


_WORKER_ENV = {
    # One thread a worker: two threads on busy cores are 2-4 times slower (platform.md 11).
    "OMP_NUM_THREADS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # The controller looks for reports this often; at the default of 2 s short runs wait for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # For so long the controller looks for a place for the workers, deaf to Ctrl-C, before it tries anew.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    **look_after_connections(),
}


@contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Connect to the cluster that the settings name, or start one in this process; shut down after.

    Inside another `connected` block this one uses that connection and leaves it open.
    """
    if ray.is_initialized():
        yield
        return
    environment = worker_env(settings)
    os.environ.update(environment)
    ray.init(
        # "local" by name: without an address Ray joins whatever cluster runs on this machine.
        address=settings.ray_address or "local",
        runtime_env=({} if settings.in_ray_job else code_without(settings.work))
        | {"env_vars": worker_environment(environment | log_environment())},
        log_to_driver=False,
        logging_level=logging.ERROR,
        # An embedded cluster is for this process alone; a dashboard costs 300 MB and 3 s.
        **({} if settings.ray_address else {"include_dashboard": False}),
    )
    try:
        yield
    finally:
        ray.shutdown()


def worker_env(settings: Settings) -> dict[str, str]:
    """What the processes of a cluster need in their environment, and this one before it connects."""
    if not (settings.runs.startswith("s3://") and settings.s3_endpoint_url):
        return _WORKER_ENV
    # pyarrow would send checkpoints in chunks with a checksum behind, which older stores refuse.
    return _WORKER_ENV | {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}


def code_without(work: Path) -> dict[str, Any]:
    """What workers need of this repository: its code. Data goes by path or URI.

    Ray leaves out what .gitignore names; a work folder elsewhere in the tree is named here.
    """
    excludes = [".git/", ".venv/", "work/"]
    if work.is_relative_to(REPOSITORY) and work != REPOSITORY:
        excludes.append(f"{work.relative_to(REPOSITORY)}/")
    return {"working_dir": str(REPOSITORY), "excludes": excludes}


def num_cpus() -> int:
    """CPUs of the connected cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def map_tasks(
    function: Callable[..., _Out],
    items: Iterable[_In],
    *arguments: Any,
    max_in_flight: int | None = None,
) -> Iterator[_Out]:
    """Run `function(item, *arguments)` as a Ray task for each item; yield results as they come.

    At most `max_in_flight` tasks (default: twice the CPUs that the cluster has at the moment, or more
    where an autoscaler adds nodes) are submitted at a time. A task whose worker dies is run again; an
    error it raises is raised here as itself, when the tasks that are under way have given their
    results. While no node has a CPU it waits, and says so.
    """
    name = getattr(function, "__name__", type(function).__name__)
    shared = _put(arguments)
    remote = ray.remote(run_measured).options(max_retries=3, name=name)
    room = Room()
    pending: list[Any] = []
    waiting = iter(items)
    exhausted = False
    failure: RayTaskError | None = None
    while pending or not exhausted:
        limit = max_in_flight or room.num_tasks
        while not exhausted and len(pending) < limit:
            try:
                pending.append(remote.remote(function, next(waiting), *shared))
            except StopIteration:
                exhausted = True
        if not pending:
            continue
        # Not for ever: nodes may join while every task that runs is a long one.
        ready, pending = ray.wait(pending, num_returns=1, timeout=LOOK_EVERY_S)
        if not ready:
            room.tell_of_none()
            continue
        try:
            yield ray.get(ready[0])
        except RayTaskError as error:
            failure, exhausted = failure or error, True
    if failure:
        raise failure.cause from failure


def map_actors(
    make: Callable[..., Callable[[_In], _Out]],
    items: Iterable[_In],
    *arguments: Any,
    num_actors: int | None = None,
) -> Iterator[tuple[_In, _Out | RayActorError]]:
    """Let actors (default: one a CPU, as nodes join) that hold `make(*arguments)` call it with each item.

    Yields item and result as they come; every actor has one item at a time, and none before it runs
    somewhere. The item of an actor that dies, or whose node does, is tried once more by another; if
    that dies too, the item comes with its error. An error that `make` or the call raises is raised
    here as itself. While no node has a CPU it waits, and says so.
    """
    remote = ray.remote(_Holder).options(num_cpus=1)
    shared, room = _put(arguments), Room()
    left = deque((item, 1) for item in items)
    starting: dict[Any, Any] = {}
    free: list[Any] = []
    busy: dict[Any, tuple[Any, _In, int]] = {}
    while left or busy:
        while free and left:
            actor, (item, attempt) = free.pop(), left.popleft()
            busy[actor.call.remote(item)] = actor, item, attempt
        limit = min(num_actors or room.num_actors, room.num_actors)
        num_more = min(limit - len(busy) - len(starting), len(left) - len(starting))
        for _ in range(num_more):
            actor = remote.remote(make, *shared)
            starting[actor.ready.remote()] = actor
        ready, _ = ray.wait([*busy, *starting], num_returns=1, timeout=LOOK_EVERY_S)
        if not ready:
            room.tell_of_none()
        elif ready[0] in starting:
            # One that died before it had an item is made again.
            with suppress(RayActorError):
                actor = starting.pop(ready[0])
                ray.get(ready[0])
                free.append(actor)
        else:
            actor, item, attempt = busy.pop(ready[0])
            result = _result(ready[0])
            if isinstance(result, RayActorError) and attempt == 1:
                left.appendleft((item, 2))
                continue
            if not isinstance(result, RayActorError):
                free.append(actor)
            yield item, result


class _Holder:
    """An actor: makes what it holds at the first call, so that an error of it reaches the caller."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._held: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Answer, which shows that it runs."""

    def call(self, item: Any) -> Any:
        """Call what is held."""
        if self._held is None:
            self._held = self._make(*self._arguments)
        return run_measured(self._held, item)


def _put(arguments: Iterable[Any]) -> list[Any]:
    """Store what all tasks are given, once: Ray would send a bundle's megabytes with each of them."""
    return [ray.put(argument) for argument in arguments]


def _result(reference: Any) -> Any:
    """What came of a call: its result, or that its actor died. Raises the error that it raised."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        return error


def run_ddp(
    loop: Callable[..., None],
    payload: dict[str, Any],
    *,
    name: str,
    settings: Settings,
    num_workers: int,
    use_gpu: bool,
    on_report: OnReport,
    max_failures: int = 3,
) -> Checkpoint:
    """Run `loop(payload, rank=, world_size=, device=, resume=, report=)` on `num_workers` DDP workers.

    `resume` iterates over checkpoint folders, the newest first, none at the start. Returns the last
    checkpoint; `fetched` gives its folder. The same `name` under the same `settings.runs` resumes,
    and trains nothing when it had finished; so a name must hold a digest of its configuration.
    A worker that dies is started again, `max_failures` times; an error that would come again is not
    tried again. A node that is gone, or that an autoscaler is to add, is waited for,
    `settings.node_wait_s`. Raises ValueError then, or at once when the cluster can never hold the
    workers, and OSError when the storage is full or out of reach; the last whole checkpoint is kept.
    """
    resource = "GPU" if use_gpu else "CPU"
    wait_s = settings.node_wait_s
    make_room(num_workers, resource, wait_s=wait_s)
    run = RunFolder(settings.runs, name, settings.s3_endpoint_url)
    run.check_reachable()
    _mend(run)
    system, path = run.open()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"loop": loop, "payload": payload},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=system,
            # How long it looks for a place is for `Patience` to say.
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[_Reports(on_report, run), Patience(num_workers, resource, wait_s)],
            worker_runtime_env={"env_vars": worker_env(settings) | log_environment()},
        ),
    )
    try:
        with told_of_lost(num_workers, resource, wait_s=wait_s):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _root_cause(error, run) from error
    _mend(run)
    assert result.checkpoint is not None
    return result.checkpoint


def _mend(run: RunFolder) -> None:
    """Mend a run's folder, and say what was swept."""
    orphans = run.mend()
    if orphans:
        warnings.warn(
            f"{run.uri}: deleted {len(orphans)} checkpoints that were not finished", stacklevel=3
        )


def _worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        tell("report", rank=context.get_world_rank(), **numbers)  # a text is a picture
        checkpoint = Checkpoint.from_directory(str(folder)) if folder else None
        ray.train.report(metrics, checkpoint=checkpoint)

    place = {
        "rank": context.get_world_rank(),
        "world_size": context.get_world_size(),
        # Workers of one node see all its GPUs; each has one of them.
        "device": str(ray.train.torch.get_device()),
    }
    checkpoint = ray.train.get_checkpoint()
    resume = _Kept(checkpoint) if checkpoint else ()
    config["loop"](config["payload"], **place, resume=resume, report=report)
    # Every rank has to say so: the controller waits for all of them.
    ray.train.report(_ENDED)


@dataclass(frozen=True)
class _Kept:
    """Folders of the checkpoints that are kept, the newest first; older ones are seldom asked for."""

    newest: Checkpoint

    def __iter__(self) -> Iterator[Path]:
        """Fetch one after the other, each for as long as it is looked at."""
        with fetched(self.newest) as folder:
            yield folder
        yield from older_checkpoints(self.newest)


_ENDED = {"ended": 1.0}


class _Reports(UserCallback):
    """Hands each report to a function, in the controller, exactly once."""

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
            self._run.keep_list()
        self._on_report(metrics)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Stop at once on an error that would come again: what is raised here is not tried again."""
        for error in worker_exceptions.values():
            if _comes_again(error):
                raise error


def _comes_again(error: BaseException) -> bool:
    """Whether an error is a person's to mend."""
    return isinstance(error, ValueError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    )


def _root_cause(error: BaseException, run: RunFolder) -> BaseException:
    """The error that a worker or the controller raised, when it is one for people; else the failure."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    failures.append(getattr(error, "controller_failure", None))
    for failure in failures:
        cause = failure.cause if isinstance(failure, RayTaskError) else failure
        if isinstance(cause, OSError) and _comes_again(cause):
            where = f"{run.uri} or the place it is written to first: {cause}"
            return OSError(
                cause.errno,
                f"no checkpoint could be written; the last whole one is kept ({where}); "
                "make room and say the same command again",
            )
        if isinstance(cause, ValueError | ConnectionError):
            return cause
    return error
