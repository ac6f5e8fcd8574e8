"""HTTP by Ray Serve: an ASGI application in one process, and replicas of a model that answer it in batches.

The application's process computes nothing and needs no CPU of its own, so that its pages, its health and
its refusals are answered while every replica works. The queue for the replicas is there, hence its
bound is exact.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from infra.cluster.ray_internals import http_address
from infra.logs import log_warning
from infra.periodic import periodically
from infra.signals import handlers_kept, put_off

APPLICATION = "fusion"
_REPLICAS = "Replicas"
# How long a batch that is not full waits for more; a step on a GPU takes longer.
_BATCH_WAIT_S = 0.02
# Requests that are answered may take so long after the service was told to stop.
_DRAIN_S = 60.0
_SENT_S = 1.0
_LOOK_EVERY_S = 5.0
# Of the application's process, which waits more than it works: above any queue.
_MOST_CONNECTIONS = 10_000


class BusyError(Exception):
    """Every place in the queue is taken."""


class UnavailableError(Exception):
    """No replica can answer now: none is up, one died, or the service is stopping."""


class Model(Protocol):
    """What a replica holds. `refresh` is called in a thread beside `answer`."""

    def answer(self, items: Sequence[Any]) -> list[Any]:
        """The answers of a batch, in its order."""

    def facts(self) -> Any:
        """What it is, for who asks."""

    def refresh(self) -> None:
        """Look whether there is a newer one, and take it."""


@dataclass(frozen=True)
class Scale:
    """How many replicas (with `max_replicas`: up to so many), and what each may have in hand.

    `queue` requests wait for a replica; the next is refused. `num_gpus` is each replica's share.
    """

    replicas: int = 1
    max_replicas: int | None = None
    batch: int = 1
    queue: int = 64
    num_gpus: float = 0
    refresh_s: float = 10.0


class Replicas:
    """The replicas as the application sees them."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._num_ongoing = 0
        self._stopping = False

    async def answer(self, item: Any) -> Any:
        """An item's answer. Raises BusyError where the queue is full, else UnavailableError."""
        if self._stopping:
            raise UnavailableError("the service is stopping")
        self._num_ongoing += 1
        try:
            return await self._handle.answer.remote(item)
        except BackPressureError as error:
            raise BusyError from error
        except DeploymentUnavailableError as error:
            raise UnavailableError("no replica could be started") from error
        except RayActorError as error:
            raise UnavailableError("its worker died, perhaps out of memory") from error
        finally:
            self._num_ongoing -= 1

    async def facts(self) -> Any:
        """What the model is. Raises as `answer` does."""
        try:
            return await self._handle.facts.remote()
        except BackPressureError as error:
            raise BusyError from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise UnavailableError("no replica is up") from error

    @property
    def num_ongoing(self) -> int:
        """How many items are waiting or being answered."""
        return self._num_ongoing

    async def is_ready(self) -> bool:
        """Whether a replica is up, be it busy."""
        if self._stopping:
            return False
        name = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        states = status.applications[name].deployments[_REPLICAS].replica_states
        return states.get("RUNNING", 0) > 0

    async def drain(self) -> int:
        """Refuse what comes from now on and wait for what is under way; returns what is still."""
        self._stopping = True
        deadline_s = time.monotonic() + _DRAIN_S
        while self._num_ongoing and time.monotonic() < deadline_s:
            await asyncio.sleep(0.1)
        # The last answers are on their way through the proxy.
        await asyncio.sleep(_SENT_S)
        return self._num_ongoing


Build = Callable[[Replicas], Any]


class _Replica:
    """A deployment's class: a model that answers in batches, in a thread, and is refreshed in another."""

    def __init__(self, make: Callable[[], Model], batch: int, refresh_s: float) -> None:
        self._model = model = make()
        wait_s = _BATCH_WAIT_S if batch > 1 else 0.0

        @serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait_s)
        async def answer_together(items: list[Any]) -> list[Any]:
            return await asyncio.to_thread(model.answer, items)

        self._answer = answer_together
        self._refreshing = ExitStack()
        self._refreshing.enter_context(periodically(model.refresh, every_s=refresh_s))

    async def answer(self, item: Any) -> Any:
        return await self._answer(item)

    async def facts(self) -> Any:
        return self._model.facts()


class _Web:
    """A deployment's class: the application that `build` makes of the replicas."""

    def __init__(self, build: Build, handle: DeploymentHandle) -> None:
        self._build, self._replicas = build, Replicas(handle)

    def __serve_build_asgi_app__(self) -> Any:
        return self._build(self._replicas)

    async def drain(self) -> int:
        return await self._replicas.drain()


def application(build: Build, make: Callable[[], Model], scale: Scale) -> serve.Application:
    """The application of `build`, before replicas of the model of `make`; both travel by value.

    Each replica has one CPU, and has one batch under way and the next at hand.
    """
    between = (
        {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.replicas,
                max_replicas=scale.max_replicas,
                target_ongoing_requests=scale.batch,
            )
        }
        if scale.max_replicas
        else {"num_replicas": scale.replicas}
    )
    replicas = serve.deployment(
        name=_REPLICAS,
        max_ongoing_requests=2 * scale.batch,
        max_queued_requests=scale.queue,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={"num_cpus": 1, "num_gpus": scale.num_gpus},
        **between,
    )(_Replica)
    web = serve.deployment(
        name="Web",
        max_ongoing_requests=_MOST_CONNECTIONS,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(_Web))
    return web.bind(build, replicas.bind(make, scale.batch, scale.refresh_s))


@contextmanager
def serving(found: serve.Application, *, host: str, port: int, is_embedded: bool) -> Iterator[None]:
    """Serve an application on the connected cluster's head for the block, from when it is ready.

    After the block what is under way is answered; then the application is deleted, unless the cluster
    is embedded in this process and ends with it. Raises ValueError where Serve runs there at another
    address already, ConnectionError with the reason where the application does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        with handlers_kept():
            handle = _start(found, host, port)
        yield
        # Not after an error: there may be nobody to answer.
        handle.drain.remote().result(timeout_s=2 * _DRAIN_S)
    finally:
        if not is_embedded:
            with put_off():
                _delete()


def _start(found: serve.Application, host: str, port: int) -> DeploymentHandle:
    options = HTTPOptions(host=host, port=port)
    serve.start("HeadOnly", options, logging_config=LoggingConfig(enable_access_log=False))
    if http_address() != (host, port):
        there = "{}:{}".format(*http_address())
        raise ValueError(
            f"--host {host} --port {port}: Ray Serve runs on this cluster at {there} already; "
            "give that, or end it there (serve shutdown)"
        )
    try:
        return serve.run(found, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(APPLICATION)
        raise ConnectionError(_explained(status.message if status else str(error))) from error


def _delete() -> None:
    try:
        serve.delete(APPLICATION)
        if not serve.status().applications:
            serve.shutdown()
    except (RayError, RayServeException) as error:
        reason = " ".join(str(error).split())
        log_warning(f"the service may still run on the cluster ({reason}); serve shutdown ends it")


def _explained(message: str) -> str:
    """The error of a replica in what Serve says of it, which holds a traceback a try."""
    errors = re.findall(r"^\s*(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)$", message, re.MULTILINE)
    return f"the service did not start: {errors[-1] if errors else ' '.join(message.split())}"


def wait_while_serving() -> None:
    """Return never; raises ConnectionError when the service ends without this process."""
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            applications = serve.status().applications
        except (RayError, RayServeException) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"the Ray cluster does not answer ({reason})") from error
        if APPLICATION not in applications:
            raise ConnectionError("the service was deleted by another process")
