"""S3: a folder of whole files in a bucket, and sources read by their URI.

Uploads are invisible until they are complete, small files that must not change are put under a
condition, downloads resume where a connection was cut. Requests that fail on the network, or that the
store throttles (503 SlowDown), are retried by botocore, with jitter, for about a minute.
Credentials come from where boto3 looks for them and never travel.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import os
import random
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

_MIB = 2**20
_TRANSFER = TransferConfig(
    multipart_threshold=8 * _MIB, multipart_chunksize=8 * _MIB, max_concurrency=4
)
_PIECE_BYTES = _MIB
_TEMPORARY = ".tmp-"
# A download fails after so many retries in a row without a byte.
_MAX_RESUMES = 8
_MAX_CONFLICTS = 5
# Outlasts an outage of a minute or two. Not boto3's mode "standard": its client has a budget of some
# hundred retries for all its threads together, which a task that reads with several spends in seconds.
_RETRIES = {"mode": "legacy", "total_max_attempts": 9}
_CONNECT_S, _MAX_CONNECTS, _PORTS = 5, 3, {"http": 80, "https": 443}


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

    def read(self, name: str) -> bytes:
        """Return an object's bytes. Raises FileNotFoundError when it is absent."""
        return read_object(f"{self.uri}/{name}", self.endpoint_url)

    def size_of(self, name: str) -> int | None:
        """Size of an object in bytes, None when it is absent."""
        try:
            with _explained(f"{self.uri}/{name}"):
                return self._client.head_object(**self._at(name))["ContentLength"]
        except FileNotFoundError:
            return None

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
                with _explained(f"{self.uri}/{name}"):
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
            with _explained(f"{self.uri}/{name}"):
                self._client.upload_file(str(path), *at.values(), Config=_TRANSFER)
            arrived = self.size_of(name)
            if arrived != size:
                raise OSError(f"{self.uri}/{name}: {arrived} of {size} bytes arrived; try again")

    def write_once(self, name: str, data: bytes) -> None:
        """Put a small object that never changes. Raises ValueError when it exists with other bytes."""
        for attempt in range(_MAX_CONFLICTS):
            try:
                with _explained(f"{self.uri}/{name}"):
                    self._client.put_object(**self._at(name), Body=data, IfNoneMatch="*")
                return
            except FileExistsError:
                if self.read(name) != data:
                    raise ValueError(
                        f"{self.uri}/{name}: exists with another content; nothing is overwritten"
                    ) from None
                return
            except BlockingIOError:  # another put of the same key is in progress
                _pause(attempt)
        raise OSError(f"{self.uri}/{name}: other writers keep it busy; try again")

    def replace(self, name: str, data: bytes) -> None:
        """Put a small object, or replace it."""
        with _explained(f"{self.uri}/{name}"):
            self._client.put_object(**self._at(name), Body=data)

    def delete(self, entry: Any) -> None:
        """Delete an entry of `entries`, or abort an upload of `unfinished`.

        No error when it is gone already.
        """
        try:
            with _explained(f"{self.uri}/{entry.name}"):
                if entry.upload_id:
                    at = self._at(entry.name)
                    self._client.abort_multipart_upload(**at, UploadId=entry.upload_id)
                else:
                    self._client.delete_object(**self._at(entry.name))
        except FileNotFoundError:
            pass

    @contextmanager
    def checked(self, name: str, sha256: str) -> Iterator[Path]:
        """Fetch an object unless it is cached, check its digest, yield its local path.

        Without a cache the file is deleted after the block. Raises ValueError when the object is absent
        or damaged.
        """
        with ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fetched-"))
            folder = self.cache or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{sha256}{Path(name).suffix}"
            lock = stack.enter_context(_lock_of(path).open("w"))
            if not self._hold(lock, name, path, sha256):
                path = stack.enter_context(self._in_memory(name, sha256))
            yield path

    def _hold(self, lock: TextIO, name: str, path: Path, sha256: str) -> bool:
        """Fetch the object to `path` if need be and lock it against deletion; False without room.

        Several processes hold a file at once. Only who fetches it is alone with it, the others wait.
        """
        fcntl.flock(lock, fcntl.LOCK_SH)
        is_whole = _is_whole(path, sha256)
        while not is_whole:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another may have fetched it between the two locks.
            if not (_is_whole(path, sha256) or self._fetch(name, path, sha256)):
                fcntl.flock(lock, fcntl.LOCK_UN)
                return False
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Or deleted it.
            is_whole = path.is_file()
        os.utime(path)  # used now
        return True

    def _fetch(self, name: str, path: Path, sha256: str) -> bool:
        """Fetch the object to `path`; False when the cache has no room for it."""
        temporary = path.with_name(f"{_TEMPORARY}{path.name}")
        path.unlink(missing_ok=True)  # a damaged one
        try:
            with self._open(name) as source:
                if self.cache and not _reserve(temporary, source.raw.length, self.cache_bytes):
                    return False
                with temporary.open("r+b" if self.cache else "wb") as target:
                    self._copy(name, source, target, sha256)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    @contextmanager
    def _in_memory(self, name: str, sha256: str) -> Iterator[Path]:
        """Fetch the object to a file in memory, checked."""
        warnings.warn(
            f"{self.cache} has no room beside the files in use: some are kept in memory; raise "
            f"FUSION_CACHE_GIB above {self.cache_bytes / 2**30:.3g}",
            stacklevel=2,
        )
        with open(os.memfd_create(name), "w+b") as target:  # noqa: PTH123
            with self._open(name) as source:
                self._copy(name, source, target, sha256)
            target.flush()
            yield Path(f"/proc/self/fd/{target.fileno()}")

    def _copy(self, name: str, source: BinaryIO, target: BinaryIO, sha256: str) -> None:
        digest = hashlib.sha256()
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
            target.write(piece)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{self.uri}/{name}: damaged; delete it and its marker and run jobs.generate again"
            )

    def _open(self, name: str) -> io.BufferedReader[_Download]:
        at = self._at(name)
        try:
            download = _Download(self._client, at["Bucket"], at["Key"])
        except FileNotFoundError as error:
            raise ValueError(f"{self.uri}/{name}: missing; run jobs.generate again") from error
        return io.BufferedReader(download, _PIECE_BYTES)

    def _listed(self, operation: str, field: str, prefix: str) -> Iterator[dict[str, Any]]:
        at = self._at(prefix)
        pages = self._client.get_paginator(operation).paginate(
            Bucket=at["Bucket"], Prefix=at["Key"]
        )
        with _explained(f"{self.uri}/{prefix}"):
            for page in pages:
                yield from page.get(field, ())

    def _at(self, name: str) -> dict[str, str]:
        bucket, key = split_uri(f"{self.uri}/{name}")
        return {"Bucket": bucket, "Key": key}

    def _name(self, item: dict[str, Any]) -> str:
        return item["Key"].removeprefix(split_uri(f"{self.uri}/")[1])

    @property
    def _client(self) -> Any:
        return _client(self.endpoint_url)


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


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Raises ValueError when there is no bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ValueError(f"{uri!r}: write s3://bucket/prefix")
    return bucket, key


def read_object(uri: str, endpoint_url: str | None) -> bytes:
    """Return the bytes of `s3://bucket/key`; resumes after cut connections.

    Raises FileNotFoundError when it is absent.
    """
    return _Download(_client(endpoint_url), *split_uri(uri)).readall()


class Connection(NamedTuple):
    """How boto3 reaches the store, for another client: what environment and ~/.aws/config come to.

    `region` is None where Amazon's own store is asked and no region is set; `ca_file` is None for the
    system's certificates.
    """

    endpoint_url: str | None
    region: str | None
    ca_file: str | None


def connection_of(endpoint_url: str | None) -> Connection:
    """The endpoint, region and certificates that boto3 uses with `endpoint_url`, or found itself."""
    meta, session = _client(endpoint_url).meta, botocore.session.get_session()
    ca_file = session.get_config_variable("ca_bundle")
    region = session.get_config_variable("region")
    is_amazon = str(urlsplit(meta.endpoint_url).hostname).endswith(".amazonaws.com")
    return Connection(None if is_amazon else meta.endpoint_url, region, ca_file)


@functools.cache
def check_answers(endpoint_url: str | None) -> None:
    """Raise ConnectionError where nothing listens at the store's address: in seconds, not a minute.

    Once a process. Amazon's own store and one behind a proxy are left to boto3, which tries for longer.
    """
    at = urlsplit(_client(endpoint_url).meta.endpoint_url)
    host, proxied = str(at.hostname), at.scheme in getproxies() and not proxy_bypass(at.netloc)
    if proxied or host.endswith(".amazonaws.com"):
        return
    for tried in range(_MAX_CONNECTS):
        time.sleep(tried)
        try:
            with socket.create_connection((host, at.port or _PORTS[at.scheme]), _CONNECT_S):
                return
        except OSError as error:
            reason = error
    raise ConnectionError(
        f"no S3 store answers at {at.geturl()} ({reason}); its address is AWS_ENDPOINT_URL, or "
        "endpoint_url of ~/.aws/config"
    )


@functools.cache
def _client(endpoint_url: str | None) -> Any:
    """One client a process: it is safe to share between threads, and slow to create."""
    config = Config(
        retries=_RETRIES, connect_timeout=_CONNECT_S, read_timeout=60, max_pool_connections=32
    )
    # A session of its own: boto3's default one must not create clients in threads.
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=endpoint_url, config=config)


class _Download(io.RawIOBase):
    """An object's bytes; resumes at the current position when the connection is cut.

    Later requests ask for the same ETag, so that all parts are of one object.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        super().__init__()
        self._client, self._at = client, {"Bucket": bucket, "Key": key}
        self._uri = f"s3://{bucket}/{key}"
        with _explained(self._uri):
            first = client.get_object(**self._at)
        self._body, self._position = first["Body"], 0
        self.length, self._etag = first["ContentLength"], first["ETag"]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        retries = 0
        while self._position < self.length:
            try:
                piece = self._body.read(min(len(buffer), self.length - self._position))
            except (BotoCoreError, OSError):
                piece = b""
            if piece:
                buffer[: len(piece)] = piece
                self._position += len(piece)
                return len(piece)
            if retries == _MAX_RESUMES:
                raise ConnectionError(
                    f"{self._uri}: cut {retries} times at byte {self._position} of {self.length}"
                )
            _pause(retries)
            retries += 1
            self._resume()
        return 0

    def _resume(self) -> None:
        span = f"bytes={self._position}-{self.length - 1}"
        with _explained(self._uri):
            self._body = self._client.get_object(**self._at, Range=span, IfMatch=self._etag)["Body"]


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(0.1 * 2**attempt, 5)))


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn boto3's errors into Python's, with the URI and the remedy."""
    try:
        yield
    except NoCredentialsError as error:
        raise PermissionError(
            f"{uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        ) from error
    except ClientError as error:
        raise _explain(uri, error) from error
    except BotoCoreError as error:
        raise ConnectionError(
            f"{uri}: {error}; is AWS_ENDPOINT_URL right, the store up?"
        ) from error
    except boto3.exceptions.S3UploadFailedError as error:
        cause = error.__context__
        if isinstance(cause, ClientError):
            raise _explain(uri, cause) from error
        raise ConnectionError(f"{uri}: {error}") from error


def _explain(uri: str, error: ClientError) -> OSError:
    answer = error.response
    code, status = answer["Error"]["Code"], answer["ResponseMetadata"].get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return OSError(f"{uri}: no such bucket; create it first")
    if status == 404:
        return FileNotFoundError(f"{uri}: no such object")
    if status == 412:
        return FileExistsError(f"{uri}: exists already, or changed while it was read")
    if status == 409:
        return BlockingIOError(f"{uri}: {code}")
    if status in (401, 403):
        return PermissionError(f"{uri}: {code}; are the credentials right, may they do this?")
    # A store that fails or throttles may answer later; whoever can, tries again.
    kind = ConnectionError if status and status >= 500 else OSError
    return kind(f"{uri}: {code}, {answer['Error'].get('Message', '')}")
