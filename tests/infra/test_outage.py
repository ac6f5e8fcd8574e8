"""MLflow goes away while a training runs: a real server, stopped and killed, and nothing is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from mlflow import MlflowClient

from infra.cluster.ddp import run_ddp
from infra.cluster.run_folder import fetched_checkpoint
from infra.registry import tracking
from infra.registry.report_log import ReportLogger
from infra.settings import Settings
from infra.storage.s3_folder import S3Folder
from pipelines.store.folders import LocalFolder
from tests.infra import ray_workloads
from tests.s3_servers import make_bucket

pytestmark = pytest.mark.slow

_STARTUP_S = 300.0


class Server:
    """An MLflow server on a sqlite file, its processes ours to stop."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "0"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _STARTUP_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.5)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
        except (OSError, URLError):
            return False
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("mlflow"))
    started.start()
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> MlflowClient:
    return tracking.connect(
        Settings(work=tmp_path, tracking_uri=server.url, artifact_root=None, ray_address=None)
    )


def report(step: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 10.0 * step, "samples_per_s": 3.0}]


def test_reports_wait_for_a_server_and_outlive_their_process(
    server: Server, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tracking.open_run(client, name="waits", config={}, tags={}).info.run_id

    def logger() -> ReportLogger:
        return ReportLogger(server.url, run_id, LocalFolder(tmp_path), timeout_s=2.0)

    first = logger()
    for step in (1, 2):
        first(report(step))
    server.signal(signal.SIGSTOP)
    started = time.monotonic()
    for step in (3, 4, 5):
        first(report(step))
    # A stopped server takes connections and never answers; MLflow's own client waits a quarter of an hour.
    assert time.monotonic() - started < 300
    # Another process takes over, from a checkpoint after step 3.
    second = logger()
    for step in (4, 5, 6):
        second(report(step))
    with pytest.raises(ConnectionError, match=rf"4 reports are kept in {tmp_path}: run the same"):
        second.close()
    server.signal(signal.SIGCONT)
    third = ReportLogger(server.url, run_id, LocalFolder(tmp_path), timeout_s=120.0)
    third.close()
    third(report(7))
    history = client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (step, 10.0 * step) for step in range(1, 8)
    ]
    # Each with the time at which it was reported.
    times = [metric.timestamp for metric in history]
    assert times == sorted(times)
    assert times[3] - times[2] < times[6] - times[2]
    assert (tmp_path / "unlogged.json").read_bytes() == b"[]"


@pytest.mark.ray
def test_training_goes_on_while_the_server_is_dead(
    server: Server,
    client: MlflowClient,
    ray_settings: Settings,
    moto_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its checkpoints on S3, and a worker that is killed in the meantime; each step is there once."""
    monkeypatch.setenv("FUSION_LOG", "json")
    bucket = make_bucket(moto_url, "outage")
    settings = ray_settings.model_copy(
        update={
            "tracking_uri": server.url,
            "runs_uri": f"{bucket}/runs",
            "s3_endpoint_url": moto_url,
        }
    )
    run_id = tracking.open_run(client, name="outage", config={}, tags={}).info.run_id
    came_back_s: list[float] = []

    def take_it_away() -> None:
        while not tracking.metric_curve(client, run_id, "loss"):
            time.sleep(0.1)
        server.kill()
        while not (tmp_path / "died").exists():
            time.sleep(0.1)
        time.sleep(3)
        server.start()
        came_back_s.append(time.time())

    away = threading.Thread(target=take_it_away)
    away.start()
    checkpoint = run_ddp(
        partial(ray_workloads.count_steps, {"folder": str(tmp_path), "num_steps": 10}),
        name="count",
        settings=settings,
        num_workers=2,
        resources={"CPU": 1},
        on_report=ReportLogger(
            server.url, run_id, S3Folder(f"{bucket}/runs/count", moto_url, None)
        ),
    )
    away.join()
    assert (tmp_path / "died").exists()
    with fetched_checkpoint(checkpoint) as folder:
        assert (folder / "step").read_text() == "10"
    assert not folder.exists()
    history = client.get_metric_history(run_id, "loss")
    expected = [(step, 10.0 * step + 0.5) for step in range(1, 11)]
    assert [(metric.step, metric.value) for metric in history] == expected
    numbers = range(1, 11)
    assert tracking.metric_curve(client, run_id, "samples_per_s") == [(n, 2.0) for n in numbers]
    assert tracking.metric_curve(client, run_id, "host_peak_mib") == [(n, 101.0) for n in numbers]
    # So is the picture that rank 0 drew before the restart, and those after it.
    pictures = tracking.fetch_folder(run_id, "previews", tmp_path / "pictures")
    assert {path.name: path.read_text() for path in pictures.iterdir()} == {
        f"step-{step:08d}.png": f"picture {step}" for step in (3, 6, 9)
    }
    # Each rank told of its steps, those that were taken again too, in lines for machines.
    told = [line for line in lines_of_workers() if line["run"] == run_id]
    assert {(line["rank"], line["step"], line["loss"]) for line in told} == {
        (rank, float(step), 10.0 * step + rank) for rank in range(2) for step in numbers
    }
    # Some of them were reported before there was a server to log them.
    assert sum(metric.timestamp / 1000 < came_back_s[0] for metric in history) > 1


def lines_of_workers() -> list[dict[str, Any]]:
    """The reports in the logs of this cluster's workers."""
    import ray

    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    return [
        json.loads(line)
        for path in logs.glob("worker-*.err")
        for line in path.read_text().splitlines()
        if line.startswith("{") and '"report"' in line
    ]
