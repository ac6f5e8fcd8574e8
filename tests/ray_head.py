"""A Ray head of its own with the dashboard, as a cluster's operator would start it: it asks for a token."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import psutil

# Drawn, because the code that is sent to the cluster holds this file.
TOKEN = f"token-{secrets.token_hex(16)}"
NODE_SECRETS = {
    "AWS_SECRET_ACCESS_KEY": f"canary-{secrets.token_hex(8)}",
    "MLFLOW_TRACKING_PASSWORD": f"canary-{secrets.token_hex(8)}",
}


@dataclass(frozen=True)
class RayHead:
    """Where it answers, and the folder of its logs."""

    address: str
    folder: Path


@contextmanager
def ray_head(log_path: Path) -> Iterator[RayHead]:
    """Start one, with this environment's Python on its path; end it after."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # What nodes get from their operator, and jobs find there.
        **NODE_SECRETS,
    }
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # Another cluster on this machine holds the default one, and without it no job is taken.
    command += [f"--dashboard-agent-listen-port={agent}"]
    # Ray's sockets allow about 100 characters of path, which pytest's folders would use up.
    folder = Path("/tmp") / f"ray-{os.getpid()}"
    with log_path.open("wb") as log:
        head = subprocess.Popen(
            [*command, f"--temp-dir={folder}"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(f"{address}/api/version", timeout_s=300)
        yield RayHead(address, folder)
    finally:
        started = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        # Ray itself waits half a minute for those that do not end at once.
        kill_remaining(started, after_s=5)
        head.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def kill_remaining(processes: Sequence[psutil.Process], *, after_s: float) -> None:
    """Kill those that have not ended by themselves after so long."""
    for process in psutil.wait_procs(processes, timeout=after_s)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, *, timeout_s: float) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, f"{url} did not answer in {timeout_s} s"
            time.sleep(0.5)
