"""Batches made ahead of their step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def prefetch(
    make: Callable[[int], _T], steps: Iterable[int], *, threads: int = 1, depth: int = 4
) -> Iterator[_T]:
    """Yield `make(step)` for each step in order, made `depth` steps ahead, or as many as there are threads.

    Threads, not processes: decoding releases the GIL, and they share the shards that are open.
    """
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > max(depth, threads):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
