"""Calls at intervals, in a thread, while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A call may hang where the network does; the end of the block does not wait for it longer.
_JOIN_S = 10.0


@contextmanager
def periodically(function: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Call `function` every `every_s` seconds until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            function()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=_JOIN_S)
