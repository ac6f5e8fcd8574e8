"""A model without replicas, so that the web application is tried without Ray."""

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
