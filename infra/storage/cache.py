"""Fetched files, kept on this machine by their digest; all processes of it share one folder of them."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from infra.storage.client import Download

_PIECE_BYTES = 2**20
_TEMPORARY = ".tmp-"


class Wanted(NamedTuple):
    """A file of the store: what errors call it, the digest of its bytes, and how it is opened."""

    uri: str
    sha256: str
    open: Callable[[], Download]


@contextmanager
def fetched(wanted: Wanted, cache: Path | None, most_bytes: int) -> Iterator[Path]:
    """Fetch a file unless it is cached, check its digest, yield its local path.

    The cache never takes more than `most_bytes`. Without one the file is deleted after the block. Raises
    ValueError when it is absent or damaged.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fetched-"))
        folder = cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{wanted.sha256}{Path(wanted.uri).suffix}"
        lock = stack.enter_context(_lock_of(path).open("w"))
        if not _hold(lock, wanted, path, most_bytes if cache else None):
            _warn_of_no_room(folder, most_bytes)
            path = stack.enter_context(_in_memory(wanted))
        yield path


def _hold(lock: TextIO, wanted: Wanted, path: Path, most_bytes: int | None) -> bool:
    """Fetch a file to `path` if need be and lock it against deletion; False without room.

    Several processes hold a file at once. Only who fetches it is alone with it, the others wait.
    """
    fcntl.flock(lock, fcntl.LOCK_SH)
    is_whole = _is_whole(path, wanted.sha256)
    while not is_whole:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another may have fetched it between the two locks.
        if not (_is_whole(path, wanted.sha256) or _fetch(wanted, path, most_bytes)):
            fcntl.flock(lock, fcntl.LOCK_UN)
            return False
        fcntl.flock(lock, fcntl.LOCK_SH)
        # Or deleted it.
        is_whole = path.is_file()
    os.utime(path)  # used now
    return True


def _fetch(wanted: Wanted, path: Path, most_bytes: int | None) -> bool:
    """Fetch a file to `path`; False when `most_bytes` leave no room for it."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    path.unlink(missing_ok=True)  # a damaged one
    try:
        with wanted.open() as source:
            if most_bytes is not None and not _reserve(temporary, source.length, most_bytes):
                return False
            with temporary.open("wb" if most_bytes is None else "r+b") as target:
                _copy(wanted, source, target)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _lock_of(path: Path) -> Path:
    return path.with_name(f".lock-{path.name.removeprefix(_TEMPORARY)}")


def _reserve(temporary: Path, num_bytes: int, most_bytes: int) -> bool:
    """Create a file of so many bytes in the cache, if it then takes `most_bytes` at most.

    Files without a lock make room, the least recently used first.
    """
    folder = temporary.parent
    with (folder / ".lock-room").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = []
        for path in folder.iterdir():
            if not path.name.startswith(".lock-"):
                try:
                    status = path.stat()
                except FileNotFoundError:  # a download that ended
                    continue
                found.append((status.st_mtime_ns, status.st_size, path))
        used_bytes = num_bytes + sum(size for _, size, _ in found)
        if num_bytes > most_bytes:
            return False
        for _, size, path in sorted(found):
            if used_bytes > most_bytes:
                used_bytes -= size * _delete_unheld(path)
        if used_bytes > most_bytes:
            return False
        with temporary.open("wb") as stream:
            stream.truncate(num_bytes)
        return True


def _delete_unheld(path: Path) -> bool:
    """Delete a cached file unless a process has its lock; whether it is gone.

    A file that is open already stays readable.
    """
    with _lock_of(path).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True


def _warn_of_no_room(folder: Path, most_bytes: int) -> None:
    warnings.warn(
        f"{folder} has no room beside the files in use: some are kept in memory; raise "
        f"FUSION_CACHE_GIB above {most_bytes / 2**30:.3g}",
        stacklevel=2,
    )


@contextmanager
def _in_memory(wanted: Wanted) -> Iterator[Path]:
    """Fetch a file to one in memory, checked."""
    with open(os.memfd_create(Path(wanted.uri).name), "w+b") as target:  # noqa: PTH123
        with wanted.open() as source:
            _copy(wanted, source, target)
        target.flush()
        yield Path(f"/proc/self/fd/{target.fileno()}")


def _copy(wanted: Wanted, source: Download, target: BinaryIO) -> None:
    digest, pieces = hashlib.sha256(), io.BufferedReader(source, _PIECE_BYTES)
    while piece := pieces.read(_PIECE_BYTES):
        digest.update(piece)
        target.write(piece)
    if digest.hexdigest() != wanted.sha256:
        raise ValueError(
            f"{wanted.uri}: damaged; delete it and its marker and run jobs.generate again"
        )


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
