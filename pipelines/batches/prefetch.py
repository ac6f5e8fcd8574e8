"""Batches made ahead of their step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def prefetch(make: Callable[[int], _T], steps: Iterable[int], *, depth: int = 4) -> Iterator[_T]:
    """Yield `make(step)` for each step in order, made up to `depth` ahead by one thread.

    One thread is enough: decoding releases the GIL, and a training step takes longer than its batch.
    """
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
