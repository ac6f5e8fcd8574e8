"""Ray tasks and actors over many items, with a bounded number in flight.

Functions are handed in and travel by reference: they live in importable modules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from infra.cluster.nodes import POLL_S, Capacity
from infra.cluster.ray_internals import lost_its_node
from infra.logs import log_warning
from infra.prometheus import task_measured
from infra.settings import WORKER_LOG

_In = TypeVar("_In")
_Out = TypeVar("_Out")
# Of actors in a row, in `make`: the second shows that it is no accident.
_MAX_DEATHS = 2
_MAX_REASON = 600


def map_tasks(
    function: Callable[..., _Out],
    items: Iterable[_In],
    *arguments: Any,
    max_in_flight: int | None = None,
    num_gpus: float = 0,
) -> Iterator[_Out]:
    """Run `function(item, *arguments)` as a Ray task for each item; yield results as they complete.

    A task takes a CPU and `num_gpus`, which may be a fraction. At most `max_in_flight` tasks are submitted
    at a time (default: twice those that the cluster has place for now; more where an autoscaler adds
    nodes). A task whose worker dies, or that raises a ConnectionError (its store was away for longer than
    its own retries), is retried three times. Another error that a task raises is raised here as itself,
    after the tasks in flight have yielded their results; ChildProcessError where its worker died at every
    attempt. Waits, with a warning, while no node has a CPU, or the GPU.
    """
    name = getattr(function, "__name__", type(function).__name__)
    shared = _put(arguments)
    retried: Any = {"max_retries": 3, "retry_exceptions": [ConnectionError]}
    remote = ray.remote(_run_task).options(name=name, num_gpus=num_gpus, **retried)
    capacity = Capacity(num_gpus)
    pending: list[Any] = []
    waiting = iter(items)
    exhausted = False
    failure: RayError | None = None
    while pending or not exhausted:
        limit = max_in_flight or capacity.num_tasks
        while not exhausted and len(pending) < limit:
            try:
                pending.append(remote.remote(function, next(waiting), *shared))
            except StopIteration:
                exhausted = True
        if not pending:
            continue
        # With a timeout: nodes may join while every running task is a long one.
        ready, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
        if not ready:
            capacity.warn_if_none()
            continue
        try:
            yield ray.get(ready[0])
        except RayError as error:
            failure, exhausted = failure or error, True
    if isinstance(failure, RayTaskError):
        raise failure.cause from failure
    if failure:
        raise ChildProcessError(f"a worker of {name} died at every attempt: {_reason(failure)}")


def map_actors(
    make: Callable[..., Callable[[_In], _Out]],
    items: Iterable[_In],
    *arguments: Any,
    num_actors: int | None = None,
    num_gpus: float = 0,
) -> Iterator[tuple[_In, _Out | RayActorError]]:
    """Call `make(*arguments)` in actors and let them map the items; yield (item, result) pairs.

    Actors have one CPU and `num_gpus` each, which may be a fraction; `num_actors` defaults to as many as
    the nodes have place for, as they join. An actor gets one item at a time, and none before `make` has
    returned. The item of an actor that dies, or whose node does, is retried once by another; if that
    dies too, the item comes with its error. An error that `make` or the call raises is raised here as
    itself; ChildProcessError where two actors in a row died in `make`. Waits, with a warning, while no
    node has a CPU.
    """
    remote = ray.remote(_Actor).options(num_cpus=1, num_gpus=num_gpus)
    shared, capacity = _put(arguments), Capacity(num_gpus)
    left = deque((item, 1) for item in items)
    starting: dict[Any, Any] = {}
    free: list[Any] = []
    busy: dict[Any, tuple[Any, _In, int]] = {}
    deaths = 0
    while left or busy:
        while free and left:
            actor, (item, attempt) = free.pop(), left.popleft()
            busy[actor.call.remote(item)] = actor, item, attempt
        limit = min(num_actors or capacity.num_actors, capacity.num_actors)
        num_more = min(limit - len(busy) - len(starting), len(left) - len(starting))
        for _ in range(num_more):
            actor = remote.remote(make, *shared)
            starting[actor.ready.remote()] = actor
        ready, _ = ray.wait([*busy, *starting], num_returns=1, timeout=POLL_S)
        if not ready:
            capacity.warn_if_none()
        elif ready[0] in starting:
            actor, failure = starting.pop(ready[0]), _result(ready[0])
            # One that died before it had an item is replaced in the next round.
            if isinstance(failure, RayActorError):
                deaths += not lost_its_node(failure)
                _warn_or_give_up(deaths, make, failure)
            else:
                deaths = 0
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


def _run_task(function: Callable[..., _Out], *arguments: Any) -> _Out:
    with task_measured(function):
        return function(*arguments)


def _warn_or_give_up(deaths: int, make: Callable[..., Any], failure: RayActorError) -> None:
    what = f"an actor died while it made its {getattr(make, '__name__', make)}"
    if deaths == _MAX_DEATHS:
        raise ChildProcessError(
            f"{what}, {deaths} times in a row: {_reason(failure)}; {WORKER_LOG}=1 shows what it wrote"
        )
    log_warning(f"{what}; trying again ({_reason(failure)})")


def _reason(error: RayError) -> str:
    return " ".join(str(error).split())[:_MAX_REASON]


class _Actor:
    """Calls `make` in `ready`, not in `__init__`, so that an error of it reaches the caller."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._function: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Make what maps the items."""
        self._function = self._make(*self._arguments)

    def call(self, item: Any) -> Any:
        """Map one item."""
        assert self._function is not None
        with task_measured(self._function):
            return self._function(item)


def _put(arguments: Iterable[Any]) -> list[Any]:
    """Store shared arguments once: Ray would send a bundle's megabytes with each task."""
    return [ray.put(argument) for argument in arguments]


def _result(reference: Any) -> Any:
    """A call's result, or the RayActorError of its actor's death. Raises the error that it raised."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        return error
