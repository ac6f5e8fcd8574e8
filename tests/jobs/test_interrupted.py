"""A command that is interrupted leaves no process behind and says how to resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.settings import REPOSITORY
from pipelines.sources.index import write_index
from pipelines.sources.scan import scan
from pipelines.synthetic.pairs import write_scenes

_WAIT_S = 300.0


@pytest.mark.slow
@pytest.mark.ray
def test_a_generation_ends_whole(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    write_scenes(sources, split_counts={"train": 64}, seed=3, height=192, width=256)
    write_index(
        scan(sources, dataset="rendered"), tmp_path / "work" / "scenes" / "rendered.parquet"
    )
    words = ["generate", "small", "--scenes", "rendered", "--set", "scenes_per_shard=4"]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"jobs.{words[0]}",
                *words[1:],
                "--work",
                str(tmp_path / "work"),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "RAY_ADDRESS": ""},
            stdout=stream,
            stderr=stream,
            # A shell that has no terminal starts what is in the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        written = tmp_path / "work" / "datasets" / "shards"
        wait_until(lambda: written.is_dir() and any(written.glob("*.tar")), process, log)
        started = psutil.Process(process.pid).children(recursive=True)
        assert started, "Ray has processes of its own"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=_WAIT_S) == 130, log.read_text()
    finally:
        process.kill()
    said = log.read_text()
    assert "Traceback" not in said
    assert f"the same command resumes: python -m jobs.generate {' '.join(words[1:])}" in said
    left = psutil.wait_procs(started, timeout=_WAIT_S)[1]
    assert left == []


def wait_until(is_true, process: subprocess.Popen[bytes], log: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + _WAIT_S
    while not is_true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
