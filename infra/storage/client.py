"""The client of the store: what is set, how requests are tried again, what its errors mean.

Requests that fail on the network, or that the store throttles (503 SlowDown), are retried by botocore,
with jitter, for about a minute; downloads resume where a connection was cut.
"""

from __future__ import annotations

import functools
import io
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

# A download fails after so many retries in a row without a byte.
_MAX_RESUMES = 8
# Outlasts an outage of a minute or two. Not boto3's mode "standard": its client has a budget of some
# hundred retries for all its threads together, which a task that reads with several spends in seconds.
_RETRIES = {"mode": "legacy", "total_max_attempts": 9}
_CONNECT_S, _MAX_CONNECTS, _PORTS = 5, 3, {"http": 80, "https": 443}


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
    return Download(s3_client(endpoint_url), *split_uri(uri)).readall()


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
    meta, session = s3_client(endpoint_url).meta, botocore.session.get_session()
    ca_file = session.get_config_variable("ca_bundle")
    region = session.get_config_variable("region")
    is_amazon = str(urlsplit(meta.endpoint_url).hostname).endswith(".amazonaws.com")
    return Connection(None if is_amazon else meta.endpoint_url, region, ca_file)


@functools.cache
def check_answers(endpoint_url: str | None) -> None:
    """Raise ConnectionError where nothing listens at the store's address: in seconds, not a minute.

    Once a process. Amazon's own store and one behind a proxy are left to boto3, which tries for longer.
    """
    at = urlsplit(s3_client(endpoint_url).meta.endpoint_url)
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
def s3_client(endpoint_url: str | None) -> Any:
    """One client a process: it is safe to share between threads, and slow to create."""
    config = Config(
        retries=_RETRIES, connect_timeout=_CONNECT_S, read_timeout=60, max_pool_connections=32
    )
    # A session of its own: boto3's default one must not create clients in threads.
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=endpoint_url, config=config)


class Download(io.RawIOBase):
    """An object's bytes; resumes at the current position when the connection is cut.

    Later requests ask for the same ETag, so that all parts are of one object.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        super().__init__()
        self._client, self._at = client, {"Bucket": bucket, "Key": key}
        self._uri = f"s3://{bucket}/{key}"
        with looked_for(self._uri, client):
            first = client.get_object(**self._at)
        self._body, self._position = first["Body"], 0
        self.length, self._etag = first["ContentLength"], first["ETag"]

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next. Raises ConnectionError where connections are cut again and again."""
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
            pause(retries)
            retries += 1
            self._resume()
        return 0

    def _resume(self) -> None:
        span = f"bytes={self._position}-{self.length - 1}"
        with explained(self._uri):
            self._body = self._client.get_object(**self._at, Range=span, IfMatch=self._etag)["Body"]


def pause(attempt: int) -> None:
    """Wait for a moment, longer after each attempt, and not as long as others do."""
    time.sleep(random.uniform(0, min(0.1 * 2**attempt, 5)))


@contextmanager
def explained(uri: str) -> Iterator[None]:
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


@contextmanager
def looked_for(uri: str, client: Any) -> Iterator[None]:
    """`explained` for reading: FileNotFoundError where credentials that may not list are answered 403.

    The store tells only those who may list that an object is absent.
    """
    try:
        with explained(uri):
            yield
    except PermissionError as error:
        bucket, key = split_uri(uri)
        if may_list(client, bucket, key.rpartition("/")[0]):
            raise
        raise FileNotFoundError(
            f"{uri}: no such object, or the credentials may not read it"
        ) from error


@functools.cache
def may_list(client: Any, bucket: str, folder: str) -> bool:
    """Whether the credentials may list a folder of a bucket; asked once a process.

    Raises PermissionError for credentials that the store does not know.
    """
    uri = f"s3://{bucket}/{folder}"
    with explained(uri):
        try:
            client.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/".lstrip("/"), MaxKeys=1)
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise
            return False
    return True


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
