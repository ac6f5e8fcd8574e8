"""Where Ray Train keeps a run's checkpoints: a folder that all nodes see, or a prefix on S3.

Ray Train writes its list of checkpoints in place, and forgets folders that it was writing when it died.
So a copy of the last whole list is kept beside it, and a run that goes on is mended first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as fs
from ray.train import Checkpoint

from infra.storage import S3Folder, split_uri

# Ray Train's own names.
_LIST = "checkpoint_manager_snapshot.json"
_CHECKPOINT = "checkpoint_"
_LIST_BEFORE = "checkpoint_list_before.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder `name` of a run, below a path or `s3://bucket/prefix`."""

    storage: str
    name: str
    endpoint_url: str | None

    @property
    def uri(self) -> str:
        """Where it is, for people."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    def open(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of `storage` on it. Credentials are looked up where it is used."""
        if not self.storage.startswith("s3://"):
            return fs.LocalFileSystem(), self.storage
        bucket, key = split_uri(self.storage.rstrip("/"))
        path = f"{bucket}/{key}".rstrip("/")
        if self.endpoint_url is None:
            return fs.S3FileSystem(region=fs.resolve_s3_region(bucket)), path
        parts = urlsplit(self.endpoint_url)
        endpoint = parts.netloc + parts.path
        return fs.S3FileSystem(scheme=parts.scheme, endpoint_override=endpoint), path

    def check_reachable(self) -> None:
        """Raise OSError that says what to do when the storage on S3 cannot be listed."""
        if self.storage.startswith("s3://"):
            # boto3 tells a missing bucket from wrong keys, and is patient; pyarrow is neither.
            folder = S3Folder(self.storage.rstrip("/"), self.endpoint_url, None)
            next(folder.entries(f"{self.name}/{_LIST}"), None)

    def mend(self) -> list[str]:
        """Bring back a list of checkpoints that was cut short; delete folders that no list names.

        Returns the names of what was deleted. Raises ValueError when a listed checkpoint is gone.
        """
        system, path = self._own_place()
        listed = self._listed(_LIST)
        if listed is None and self._read(_LIST) is not None:
            listed = self._restore_list()
        found = {info.base_name: info for info in self._checkpoints()}
        gone = sorted(set(listed or ()) - found.keys())
        if gone:
            raise ValueError(
                f"{self.uri}/{gone[0]}: this run's checkpoint is gone; put it back, or delete "
                f"{self.uri} to train from the start"
            )
        orphans = sorted(found.keys() - set(listed or ()))
        for name in orphans:
            system.delete_dir(f"{path}/{name}")
        return orphans

    def keep_list(self) -> None:
        """Copy the list of checkpoints, which is whole now. An object on S3 is never cut short."""
        system, path = self._own_place()
        data = self._read(_LIST)
        if isinstance(system, fs.LocalFileSystem) and data is not None:
            self._write(f".tmp-{_LIST_BEFORE}", data)
            system.move(f"{path}/.tmp-{_LIST_BEFORE}", f"{path}/{_LIST_BEFORE}")

    def _restore_list(self) -> list[str] | None:
        """Put the copy in place of a list that was cut short; without one there is no list."""
        system, path = self._own_place()
        before = self._listed(_LIST_BEFORE)
        if before is None:
            system.delete_file(f"{path}/{_LIST}")
            return None
        self._write(_LIST, self._read(_LIST_BEFORE) or b"")
        return before

    def _listed(self, name: str) -> list[str] | None:
        """The checkpoints that a list names; None when there is no such list, or half of one."""
        try:
            results = json.loads(self._read(name) or b"")["checkpoint_results"]
        except (ValueError, KeyError):
            return None
        return [result["checkpoint_dir_name"] for result in results]

    def _checkpoints(self) -> list[fs.FileInfo]:
        system, path = self._own_place()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [
            info
            for info in found
            if info.type == fs.FileType.Directory and info.base_name.startswith(_CHECKPOINT)
        ]

    def _read(self, name: str) -> bytes | None:
        system, path = self._own_place()
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        system, path = self._own_place()
        with system.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)

    def _own_place(self) -> tuple[fs.FileSystem, str]:
        system, path = self.open()
        return system, f"{path}/{self.name}"


@contextmanager
def fetched(checkpoint: Checkpoint) -> Iterator[Path]:
    """A checkpoint's folder on this disk: its own, or a copy of it for the length of the block."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def older_checkpoints(newest: Checkpoint) -> Iterator[Path]:
    """Those kept beside the newest, for when that one is damaged; newest first, fetched one by one."""
    parent, _, name = newest.path.rpartition("/")
    found = newest.filesystem.get_file_info(fs.FileSelector(parent))
    # Ray names them checkpoint_<time>, so names are in order of time.
    for info in sorted(found, key=lambda info: info.base_name, reverse=True):
        if info.base_name.startswith(_CHECKPOINT) and info.base_name < name:
            with fetched(Checkpoint(info.path, newest.filesystem)) as folder:
                yield folder
