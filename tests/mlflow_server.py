"""An MLflow server as one would deploy it: PostgreSQL behind it, its artifacts on an S3 store that only
the server knows, and the clients' one address in front."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ray_head import free_port
from tests.s3_servers import KEYS, answers

_STARTUP_S = 300.0


@contextmanager
def postgresql(inside: Sequence[str] = ()) -> Iterator[str]:
    """A PostgreSQL of its own, on 127.0.0.1; its SQLAlchemy address, or skips with the reason."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not installed or importlib.util.find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL here: the packages postgresql (Debian) or psycopg not found")
    # Not below pytest's folder, which the user that PostgreSQL runs as may not enter.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    password = folder / "password"
    password.write_text("secret")
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        for path in (folder, password):
            shutil.chown(path, "postgres")

    def run(program: str, *arguments: str) -> None:
        command = [
            *inside,
            *as_user,
            str(installed[-1] / program),
            "-D",
            str(folder / "data"),
            *arguments,
        ]
        # Files, not pipes: the server inherits them and would keep a pipe open.
        with (folder / "log").open("ab") as log:
            done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (folder / "log").read_text()

    port = free_port()
    run("initdb", "-A", "scram-sha-256", "-U", "mlflow", f"--pwfile={password}")
    where = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("pg_ctl", "-o", where, "-w", "start")
    try:
        yield f"postgresql+psycopg://mlflow:secret@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@contextmanager
def mlflow_server(
    artifacts: str, s3_url: str, url: str, log: Path, inside: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve at `url`, which is host and port, with the artifacts at s3://…; its process.

    `inside` begins the command lines, to run them in another network namespace.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    with postgresql(inside) as store, log.open("wb") as stream:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", host, "--port", port]
        command += ["--backend-store-uri", store, "--artifacts-destination", artifacts]
        environment = {"MLFLOW_S3_ENDPOINT_URL": s3_url, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "0"}
        process = subprocess.Popen(
            [*inside, *command], env=os.environ | KEYS | environment, stdout=stream, stderr=stream
        )
        try:
            deadline = time.monotonic() + _STARTUP_S
            while not answers(f"{url}/health"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield process
        finally:
            process.terminate()
            process.wait(timeout=120)
