"""Files that are either whole or absent: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from safetensors import SafetensorError

TEMPORARY = ".tmp-"
_MOST_TEMPORARY = 200


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedRandom]:
    """Open a temporary file that takes the name `path` only when the block ends well.

    What was written can be read back in the block. The temporary name is this writer's alone, on
    whichever node it runs; of two writers of one file the last to rename wins, with the same bytes.
    Raises ValueError where the name is that of a link, folder, device or pipe, which a rename would
    replace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_replaceable(path)
    temporary = _temporary(path)
    try:
        with full_disk_named(path), temporary.open("w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
        kind = kinds.get(stat.S_IFMT(mode), "device or pipe")
        raise ValueError(
            f"{path}: is a {kind}, which is not replaced by a file; name another place"
        )


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Raise the error of a full disk with the path and the remedy; the system's names neither."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = isinstance(error, SafetensorError) and f"(os error {errno.ENOSPC})" in str(error)
        if not full and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        message = "the disk is full; make room and run the same command again"
        raise OSError(errno.ENOSPC, message, str(path)) from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the name `path` only when the block ends well.

    A folder that has the name already, from another process that was quicker, is kept.
    """
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if not path.exists():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def delete_least_used(folder: Path, most_bytes: int, *, keep: Collection[str]) -> None:
    """Delete folders in `folder`, the least recently changed first, until the rest fits.

    Those named in `keep` stay, and do not count.
    """
    found = []
    for path in folder.glob("*"):
        if path.name not in keep and not path.name.startswith(TEMPORARY):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append((path.stat().st_mtime_ns, size, path))
    left_bytes = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left_bytes <= most_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        left_bytes -= size


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes of this machine for the block, by a file beside it.

    One that dies lets go of it. Raises ValueError when another has it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not the folder itself: NFS locks only what is open for writing.
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process works here; stop it or wait") from None
        yield


def _temporary(path: Path) -> Path:
    # The pid is for people who look; two nodes that share the disk may have the same.
    # A name may have 255 bytes, and a long one of our own be as long as that.
    name = os.fsencode(path.name)[:_MOST_TEMPORARY].decode(errors="ignore")
    return path.parent / f"{TEMPORARY}{name}-{os.getpid()}-{os.urandom(4).hex()}"


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader ever sees a part of it."""
    with whole_file(path) as stream:
        stream.write(data)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole, unless it exists. Of two writers at once one gets FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with full_disk_named(path), temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)  # unlike a rename, it never replaces a file
    except OSError as error:
        # A file system without hard links.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
