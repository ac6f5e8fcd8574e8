"""A folder of whole files, on this disk or in an object store; whoever calls hands it in.

`LocalFolder` is the one on disk; the one on S3 is `infra.storage.s3_folder.S3Folder`. Names are relative to
the folder, "shards/ab.tar". A file is whole or absent, in both.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Protocol

from pipelines.store.files import TEMPORARY, sha256_of_file, whole_file, write_new, write_whole


class Entry(Protocol):
    """What a listing says of a file; times are seconds since 1970."""

    @property
    def name(self) -> str:
        """Name below the folder."""

    @property
    def num_bytes(self) -> int:
        """Size."""

    @property
    def modified_s(self) -> float:
        """When it was written last."""


class Folder(Protocol):
    """The contract. Absent files raise FileNotFoundError, a store out of reach another OSError."""

    @property
    def uri(self) -> str:
        """Where it is: a path or s3://bucket/prefix."""

    @property
    def most_open_bytes(self) -> int | None:
        """How many bytes of its files should be held by `checked` at once; None where no matter."""

    @property
    def may_list(self) -> bool:
        """Whether `entries` may be asked: a store's credentials may have no right to."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""

    def size_of(self, name: str) -> int | None:
        """Size of a file in bytes, None when it is absent."""

    def find(self, name: str) -> Entry | None:
        """What a listing would say of a file, None when it is absent."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Files whose name starts with `prefix`, in order of name."""

    def unfinished(self, prefix: str) -> Iterator[Entry]:
        """Files that dead writers left: temporary files, uploads that were not completed."""

    def create(self, name: str) -> AbstractContextManager[BufferedRandom]:
        """Open a stream (to write and to read back) that becomes the file when the block ends well."""

    def write_once(self, name: str, data: bytes) -> None:
        """Write a small file that never changes. Raises ValueError when it exists with other bytes."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file, over what has the name."""

    def delete(self, entry: Entry) -> None:
        """Delete what `entries` or `unfinished` listed; a file that is gone already is no error."""

    def remove(self, name: str) -> None:
        """Delete a file; that it is gone already is no error."""

    def checked(self, name: str, sha256: str) -> AbstractContextManager[Path]:
        """Give a local path of the file, its bytes checked. Raises ValueError when they are others.

        The file is held for the block.
        """


@dataclass(frozen=True)
class LocalEntry:
    """A file on disk."""

    name: str
    num_bytes: int
    modified_s: float


@dataclass(frozen=True)
class LocalFolder:
    """A folder on disk, or on a file system that all nodes see."""

    path: Path

    @property
    def uri(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def most_open_bytes(self) -> None:
        """Files on this disk take no room when they are opened."""
        return None

    @property
    def may_list(self) -> bool:
        """A folder that can be read can be listed."""
        return True

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.path / name).read_bytes()

    def size_of(self, name: str) -> int | None:
        """Size of a file in bytes, None when it is absent."""
        found = self.find(name)
        return found.num_bytes if found else None

    def find(self, name: str) -> LocalEntry | None:
        """What a listing would say of a file, None when it is absent."""
        try:
            status = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_file = stat.S_ISREG(status.st_mode)
        return LocalEntry(name, status.st_size, status.st_mtime) if is_file else None

    def entries(self, prefix: str) -> Iterator[LocalEntry]:
        """Files whose name starts with `prefix`, in order of name, without hidden ones."""
        for entry in self._below(prefix):
            if not any(part.startswith(".") for part in entry.name.split("/")):
                yield entry

    def unfinished(self, prefix: str) -> Iterator[LocalEntry]:
        """Temporary files of `whole_file`, of which most belong to writers that died."""
        for entry in self._below(prefix):
            if entry.name.rpartition("/")[2].startswith(TEMPORARY):
                yield entry

    def create(self, name: str) -> AbstractContextManager[BufferedRandom]:
        """Open a temporary file that takes its name when the block ends well."""
        return whole_file(self.path / name)

    def write_once(self, name: str, data: bytes) -> None:
        """Write a small file that never changes. Raises ValueError when it exists with other bytes."""
        path = self.path / name
        try:
            if not path.is_file():
                write_new(path, data)
                return
        except FileExistsError:  # another writer was quicker
            pass
        if path.read_bytes() != data:
            raise ValueError(f"{path}: exists with another content; nothing is overwritten")

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file, over what has the name."""
        write_whole(self.path / name, data)

    def delete(self, entry: Entry) -> None:
        """Delete what was listed; that it is gone already is no error."""
        self.remove(entry.name)

    def remove(self, name: str) -> None:
        """Delete a file; that it is gone already is no error."""
        (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def checked(self, name: str, sha256: str) -> Iterator[Path]:
        """Give the file's own path, its bytes checked."""
        path = self.path / name
        if not path.is_file() or sha256_of_file(path) != sha256:
            raise ValueError(f"{path}: missing or damaged; delete it and run jobs.generate again")
        yield path

    def _below(self, prefix: str) -> Iterator[LocalEntry]:
        folder = self.path / prefix.rpartition("/")[0]
        found = (path for path in folder.rglob("*") if path.is_file())
        for name in sorted(path.relative_to(self.path).as_posix() for path in found):
            if name.startswith(prefix):
                entry = self.find(name)
                if entry:  # unless a writer elsewhere renamed or deleted it since
                    yield entry
