"""A model without replicas, so that the web application is tried without Ray."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from jobs.serve.messages import Answer, Facts, Refused, Request
from jobs.serve.model import ServedModel


class InThisProcess:
    """A model without replicas; an `error` stands for what befalls them."""

    def __init__(self, model: ServedModel, error: Exception | None = None) -> None:
        self._model, self._error = model, error

    async def answer(self, item: Request) -> Answer | Refused:
        if self._error:
            raise self._error
        [answer] = self._model.answer([item])
        return answer

    async def facts(self) -> Facts:
        return self._model.facts()

    @property
    def num_ongoing(self) -> int:
        return 0

    async def is_ready(self) -> bool:
        return self._error is None


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An application behind a port of this machine, for the block; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
