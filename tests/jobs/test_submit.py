"""Jobs on a real Ray head with its dashboard."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, read_settings
from jobs.scan import scan_folder
from jobs.submit import entrypoint_of, main
from pipelines.dataset import find_version
from pipelines.folders import LocalFolder


def test_entrypoint_quotes_and_knows_the_commands() -> None:
    line = entrypoint_of(["--", "generate", "small", "--set", 'shard.vi=["blur"]'])
    assert line == "python -m jobs.generate small --set 'shard.vi=[\"blur\"]'"
    for wrong in ([], ["--", "rm"], ["--", "config"], ["--", "submit"]):
        with pytest.raises(ValueError, match="there are: bench, demo, evaluate"):
            entrypoint_of(wrong)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def job_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head node of its own, with this environment's Python on its path."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
    }
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # Another cluster on this machine holds the default one, and without it no job is taken.
    command += [f"--dashboard-agent-listen-port={agent}"]
    # Ray's sockets allow about 100 characters of path, which pytest's folders would use up.
    folder = Path("/tmp") / f"ray-{os.getpid()}"
    log = (tmp_path_factory.mktemp("head") / "log").open("wb")
    head = subprocess.Popen(
        [*command, f"--temp-dir={folder}"],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(f"{address}/api/version", timeout_s=90)
        yield address
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, f"{url} did not answer in {timeout_s} s"
            time.sleep(0.5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_generate_makes_the_dataset(
    job_server: str,
    scene_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FUSION_WORK", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    settings = read_settings()
    scan_folder(scene_folder, settings, name="rendered")

    def submit(*command: str) -> int:
        monkeypatch.setattr(sys, "argv", ["submit", "--address", job_server, "--", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert submit("generate", "small", "--scenes", "rendered") == 0
    assert "16 scenes" in capsys.readouterr().out
    version = find_version(LocalFolder(Path(settings.datasets)), "rendered-small")
    assert version.num_scenes == 16
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert version.commit.removesuffix("+dirty") == (commit.stdout.strip() or "unknown")
    assert submit("generate", "smal", "--scenes", "rendered") == 1
    assert "did you mean 'small'" in capsys.readouterr().out
