"""S3 servers for tests: moto in this process, and Ceph's RADOS Gateway, which is a real one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import boto3
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "akakakak", "AWS_SECRET_ACCESS_KEY": "sksksksk"}
_START = Path(__file__).resolve().parents[2] / "shared" / "tools" / "start-s3.sh"
_RGW_URL = "http://127.0.0.1:15003"
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
    """The real server, its processes ours to kill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, _RGW_URL

    def start(self) -> None:
        subprocess.run(["bash", str(_START), str(self.folder)], check=True, capture_output=True)

    def kill_gateway(self) -> None:
        """kill -9 of the server of requests; the store behind it stays."""
        os.kill(self._gateway_pid(), signal.SIGKILL)
        while _answers():
            time.sleep(0.05)

    def start_gateway(self) -> None:
        frontend = ["--rgw-frontends", f"beast endpoint={_RGW_URL.removeprefix('http://')}"]
        configuration = ["-c", str(self.folder / "ceph.conf"), "-n", "client.rgw"]
        subprocess.run(["radosgw", *configuration, *frontend], check=True, capture_output=True)
        while not _answers():
            time.sleep(0.1)

    def stop(self) -> None:
        for path in (self.folder / "data" / "run").glob("*.pid"):
            with_pid = path.read_text().strip()
            if with_pid:
                try:
                    os.kill(int(with_pid), signal.SIGTERM)
                except ProcessLookupError:
                    continue

    def _gateway_pid(self) -> int:
        [path] = (self.folder / "data" / "run").glob("client.rgw*.pid")
        return int(path.read_text())


@contextmanager
def rados_gateway(folder: Path) -> Iterator[RadosGateway]:
    """Start it from nothing, or skip the test with the reason why not."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing or not _START.is_file():
        pytest.skip(f"no real S3 server here: {', '.join(missing) or _START.name} not found")
    if _answers():
        pytest.skip(f"something else listens at {_RGW_URL}; its processes are not ours to kill")
    gateway = RadosGateway(folder)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def make_bucket(url: str, name: str) -> str:
    """Make a bucket; its URI."""
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"


def _answers() -> bool:
    host, port = _RGW_URL.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            pass
        urllib.request.urlopen(_RGW_URL, timeout=5).close()
    except (OSError, URLError):
        return False
    return True
