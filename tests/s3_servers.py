"""S3 servers for tests: moto in this process, and Ceph's RADOS Gateway, which is a real one."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import boto3
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "akakakak", "AWS_SECRET_ACCESS_KEY": "sksksksk"}
_START = Path(__file__).resolve().parents[2] / "shared" / "tools" / "start-s3.sh"
RGW_URL = "http://127.0.0.1:15003"
_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "curl", "bc", "uuidgen")


@contextmanager
def moto_server() -> Iterator[str]:
    """An imitation in this process: quick, and it checks neither signatures nor checksums."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class RadosGateway:
    """The real server, its processes ours to kill.

    It answers at `url`; `inside` begins the command lines, to run them in another network namespace.
    """

    def __init__(self, folder: Path, url: str = RGW_URL, inside: Sequence[str] = ()) -> None:
        self.folder, self.url, self._inside = folder, url, inside

    def start(self) -> None:
        self._run("bash", str(_START), str(self.folder))
        if self.url != RGW_URL:  # the only one that the script knows
            self.kill_gateway()
            self.start_gateway()

    def kill_gateway(self) -> None:
        """kill -9 of the server of requests; the store behind it stays."""
        pid = self._gateway_pid()
        os.kill(pid, signal.SIGKILL)
        while _runs(pid):
            time.sleep(0.05)

    def start_gateway(self) -> None:
        frontend = ["--rgw-frontends", f"beast endpoint={self.url.removeprefix('http://')}"]
        configuration = ["-c", str(self.folder / "ceph.conf"), "-n", "client.rgw"]
        self._run("radosgw", *configuration, *frontend)
        while not answers(self.url):
            time.sleep(0.1)

    def add_user(self, name: str, bucket: str, actions: Sequence[str]) -> dict[str, str]:
        """A user who may do these `actions` with the objects of a bucket, and nothing else; its keys."""
        secret = f"{name}-secret"
        command = ["radosgw-admin", "-c", str(self.folder / "ceph.conf"), "user", "create"]
        self._run(
            *command,
            f"--uid={name}",
            f"--display-name={name}",
            f"--access-key={name}",
            f"--secret-key={secret}",
        )
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{name}"]},
            "Action": [f"s3:{action}" for action in actions],
            "Resource": [f"arn:aws:s3:::{bucket}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client_of(self.url).put_bucket_policy(Bucket=bucket, Policy=policy)
        return {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret}

    def stop(self) -> None:
        for path in (self.folder / "data" / "run").glob("*.pid"):
            with_pid = path.read_text().strip()
            if with_pid:
                try:
                    os.kill(int(with_pid), signal.SIGTERM)
                except ProcessLookupError:
                    continue

    def _run(self, *command: str) -> None:
        subprocess.run([*self._inside, *command], check=True, capture_output=True)

    def _gateway_pid(self) -> int:
        [path] = (self.folder / "data" / "run").glob("client.rgw*.pid")
        return int(path.read_text())


@contextmanager
def rados_gateway(
    folder: Path, url: str = RGW_URL, inside: Sequence[str] = ()
) -> Iterator[RadosGateway]:
    """Start it from nothing, or skip the test with the reason why not."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing or not _START.is_file():
        pytest.skip(f"no real S3 server here: {', '.join(missing) or _START.name} not found")
    if answers(url):
        pytest.skip(f"something else listens at {url}; its processes are not ours to kill")
    gateway = RadosGateway(folder, url, inside)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


def client_of(url: str) -> Any:
    """A client of a server of these tests, with their keys."""
    keys = {name.lower(): value for name, value in KEYS.items()}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


def make_bucket(url: str, name: str) -> str:
    """Make a bucket; its URI."""
    client_of(url).create_bucket(Bucket=name)
    return f"s3://{name}"


def answers(url: str) -> bool:
    """Whether something speaks HTTP there."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may have asked yet how it ended
