"""Signals that end a command, beside a library that sets handlers of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Set the handlers again, after the block, that were set before it: Ray's would exit with 0 or 15."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Deliver signals after the block: a second Ctrl-C would leave behind what the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
