"""The command on real Ray Serve, once: a promotion, a full queue, metrics, a stop that drains."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import REPOSITORY
from tests.jobs.serve.pictures import pair
from tests.settings import tracked_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WAIT_S = 600.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: object, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


@dataclass(frozen=True)
class Service:
    process: subprocess.Popen
    url: str
    client: MlflowClient
    log: Path

    def fuse(self, height: int = 24) -> requests.Response:
        return requests.post(f"{self.url}/fuse", files=pair(height, 32), timeout=WAIT_S)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/readyz", timeout=30).status_code == 200
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    work = tmp_path_factory.mktemp("serve")
    client = tracking.connect(tracked_settings(work))
    for factor in (1.0, 1.5):
        folder = work / str(factor)
        shutil.copytree(tiny_bundle, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({key: w * factor for key, w in weights.items()}, folder / "model.safetensors")
        run_id = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
        registry.register_bundle(client, "served", folder, run_id=run_id, tags={}, requirements=[])
    client.set_registered_model_alias("served", "champion", "1")
    port, log = free_port(), work / "serve.log"
    words = ["models:/served@champion", "--port", str(port), "--queue", "2", "--work", str(work)]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.serve", *words],
            cwd=REPOSITORY,
            env=environment,
            stdout=stream,
            stderr=stream,
        )
    found = Service(process, f"http://127.0.0.1:{port}", client, log)
    try:
        wait_for(found.is_ready, "the service is not ready")
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=WAIT_S)


def test_a_promotion_is_served_and_no_request_is_dropped(service: Service) -> None:
    assert service.fuse().headers["x-model"] == "models:/served/1"
    service.client.set_registered_model_alias("served", "champion", "2")
    answers: list[requests.Response] = []

    def is_promoted() -> bool:
        answers.append(service.fuse())
        return answers[-1].headers.get("x-model") == "models:/served/2"

    wait_for(is_promoted, "the new champion is not served")
    assert {answer.status_code for answer in answers} == {200}
    facts = requests.get(f"{service.url}/model", timeout=WAIT_S).json()
    assert (facts["asked"], facts["model"]) == ("models:/served@champion", "models:/served/2")


def test_a_full_queue_refuses_and_answers_the_rest(service: Service) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: service.fuse(400), range(16)))
    statuses = [answer.status_code for answer in answers]
    # One under way, one at hand, two in the queue; as they are answered others take their places.
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "too many pairs are waiting" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0


def test_prometheus_reads_what_was_answered(service: Service) -> None:
    [address] = re.findall(r"metrics +(http://\S+)", service.log.read_text())

    def exported() -> bool:
        text = requests.get(address, timeout=30).text
        wanted = (
            r'ray_fusion_serve_requests_total\{.*status="429"',
            r'ray_fusion_serve_seconds_bucket\{.*status="200"',
            r'ray_fusion_serve_batch_pairs_count\{.*version="2"',
            r'ray_fusion_serve_version\{.*model="served".*\} 2',
        )
        return all(re.search(pattern, text) for pattern in wanted)

    wait_for(exported, "metrics are missing")


def test_a_stop_answers_what_is_under_way(service: Service) -> None:
    with ThreadPoolExecutor(1) as threads:
        height, num_under_way = 200, 0
        while not num_under_way:
            # Taller until one is seen under way, on however fast a machine.
            height *= 2
            answer = threads.submit(service.fuse, height)
            while not (num_under_way or answer.done()):
                ready = requests.get(f"{service.url}/readyz", timeout=WAIT_S)
                num_under_way = ready.json()["under_way"]
        service.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert service.process.wait(timeout=WAIT_S) == 0
    assert "what is under way is answered first" in service.log.read_text()
