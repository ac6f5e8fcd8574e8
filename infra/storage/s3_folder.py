"""A folder of whole files in a bucket.

Uploads are invisible until they are complete, small files that must not change are put under a
condition. Credentials come from where boto3 looks for them and never travel.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig

from infra.storage.cache import Wanted, fetched
from infra.storage.client import (
    Download,
    explained,
    looked_for,
    may_list,
    pause,
    read_object,
    s3_client,
    split_uri,
)

_MIB = 2**20
_TRANSFER = TransferConfig(
    multipart_threshold=8 * _MIB, multipart_chunksize=8 * _MIB, max_concurrency=4
)
_MAX_CONFLICTS = 5
_RIGHTS = {
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}


@dataclass(frozen=True)
class S3Entry:
    """An object, or with `upload_id` an unfinished upload."""

    name: str
    num_bytes: int
    modified_s: float
    upload_id: str | None = None
    etag: str = ""


@dataclass(frozen=True)
class S3Folder:
    """`s3://bucket/prefix`. Fetched files are cached by digest in the folder `cache`, if there is one.

    It never takes more than `cache_bytes`: the least recently used files make room, and what finds none
    beside those that are held is kept in memory.
    """

    uri: str
    endpoint_url: str | None
    cache: Path | None
    cache_bytes: int = 50 * 2**30

    @property
    def most_open_bytes(self) -> int | None:
        """How many bytes of its files should be held at once: what the cache may take."""
        return self.cache_bytes if self.cache else None

    @property
    def may_list(self) -> bool:
        """Whether the credentials may list it (s3:ListBucket)."""
        return may_list(self._client, *split_uri(self.uri))

    def read(self, name: str) -> bytes:
        """Return an object's bytes. Raises FileNotFoundError when it is absent."""
        return read_object(f"{self.uri}/{name}", self.endpoint_url)

    def size_of(self, name: str) -> int | None:
        """Size of an object in bytes, None when it is absent."""
        found = self.find(name)
        return found.num_bytes if found else None

    def find(self, name: str) -> S3Entry | None:
        """What a listing would say of an object, None when it is absent."""
        try:
            with looked_for(f"{self.uri}/{name}", self._client):
                item = self._client.head_object(**self._at(name))
        except FileNotFoundError:
            return None
        return S3Entry(name, item["ContentLength"], item["LastModified"].timestamp())

    def entries(self, prefix: str) -> Iterator[S3Entry]:
        """Objects whose name starts with `prefix`, in order of name."""
        for item in self._listed("list_objects_v2", "Contents", prefix):
            modified_s, etag = item["LastModified"].timestamp(), item.get("ETag", "").strip('"')
            yield S3Entry(self._name(item), item["Size"], modified_s, etag=etag)

    def unfinished(self, prefix: str) -> Iterator[S3Entry]:
        """Uploads that were started and never completed; their parts are stored, and paid for."""
        for item in self._listed("list_multipart_uploads", "Uploads", prefix):
            name = self._name(item)
            try:
                with explained(f"{self.uri}/{name}"):
                    parts = self._client.list_parts(**self._at(name), UploadId=item["UploadId"])
            except FileNotFoundError:  # completed or aborted since it was listed
                continue
            size = sum(part["Size"] for part in parts.get("Parts", ()))
            yield S3Entry(name, size, item["Initiated"].timestamp(), item["UploadId"])

    @contextmanager
    def create(self, name: str) -> Iterator[io.BufferedRandom]:
        """Open a temporary file here that is uploaded, whole, when the block ends well.

        Raises OSError when what arrived is not what was sent.
        """
        with tempfile.TemporaryDirectory(prefix="upload-") as scratch:
            path = Path(scratch) / "whole"
            with path.open("w+b") as stream:
                yield stream
            at, size = self._at(name), path.stat().st_size
            with explained(f"{self.uri}/{name}"):
                self._client.upload_file(str(path), *at.values(), Config=_TRANSFER)
            arrived = self.size_of(name)
            if arrived != size:
                raise OSError(f"{self.uri}/{name}: {arrived} of {size} bytes arrived; try again")

    def write_once(self, name: str, data: bytes) -> None:
        """Put a small object that never changes. Raises ValueError when it exists with other bytes."""
        for attempt in range(_MAX_CONFLICTS):
            try:
                with explained(f"{self.uri}/{name}"):
                    self._client.put_object(**self._at(name), Body=data, IfNoneMatch="*")
                return
            except FileExistsError:
                if self.read(name) != data:
                    raise ValueError(
                        f"{self.uri}/{name}: exists with another content; nothing is overwritten"
                    ) from None
                return
            except BlockingIOError:  # another put of the same key is in progress
                pause(attempt)
        raise OSError(f"{self.uri}/{name}: other writers keep it busy; try again")

    def replace(self, name: str, data: bytes) -> None:
        """Put a small object, or replace it."""
        with explained(f"{self.uri}/{name}"):
            self._client.put_object(**self._at(name), Body=data)

    def delete(self, entry: Any) -> None:
        """Delete an entry of `entries`, or abort an upload of `unfinished`.

        No error when it is gone already.
        """
        try:
            with explained(f"{self.uri}/{entry.name}"):
                if entry.upload_id:
                    at = self._at(entry.name)
                    self._client.abort_multipart_upload(**at, UploadId=entry.upload_id)
                else:
                    self.remove(entry.name)
        except FileNotFoundError:
            pass

    def remove(self, name: str) -> None:
        """Delete an object; no error when it is gone already."""
        with explained(f"{self.uri}/{name}"):
            self._client.delete_object(**self._at(name))

    def checked(self, name: str, sha256: str) -> AbstractContextManager[Path]:
        """Fetch an object unless it is cached, check its digest, give its local path.

        Without a cache the file is deleted after the block. Raises ValueError when the object is absent
        or damaged.
        """
        wanted = Wanted(f"{self.uri}/{name}", sha256, partial(self._open, name))
        return fetched(wanted, self.cache, self.cache_bytes)

    def _open(self, name: str) -> Download:
        at = self._at(name)
        try:
            return Download(self._client, at["Bucket"], at["Key"])
        except FileNotFoundError as error:
            raise ValueError(f"{self.uri}/{name}: missing; run jobs.generate again") from error

    def _listed(self, operation: str, field: str, prefix: str) -> Iterator[dict[str, Any]]:
        at = self._at(prefix)
        pages = self._client.get_paginator(operation).paginate(
            Bucket=at["Bucket"], Prefix=at["Key"]
        )
        try:
            with explained(f"{self.uri}/{prefix}"):
                for page in pages:
                    yield from page.get(field, ())
        except PermissionError as error:
            raise PermissionError(f"{error}; {_RIGHTS[operation]} is needed for it") from error

    def _at(self, name: str) -> dict[str, str]:
        bucket, key = split_uri(f"{self.uri}/{name}")
        return {"Bucket": bucket, "Key": key}

    def _name(self, item: dict[str, Any]) -> str:
        return item["Key"].removeprefix(split_uri(f"{self.uri}/")[1])

    @property
    def _client(self) -> Any:
        return s3_client(self.endpoint_url)
