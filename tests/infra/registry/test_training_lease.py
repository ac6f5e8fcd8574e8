"""One driver a training: refused while it lives, taken at once or after its lease when it is dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from infra.registry import leases as lease
from infra.registry import tracking, training_lease
from infra.registry.training_lease import LostTrainingError, Timing
from tests.settings import tracked_settings

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "ab" * 32
NAME = f"{DIGEST[:16]}.training-lock"
FAST = Timing(heartbeat_s=0.2, timeout_s=2.0)
# Of those that must be seen to live on a machine that is slow.
SLOW = Timing(heartbeat_s=0.2, timeout_s=60.0)

_HOLD = """
import signal, sys, time
from pathlib import Path
from infra.registry import tracking
from infra.registry.training_lease import training_lease
from tests.settings import embedded_settings
signal.signal(signal.SIGINT, signal.default_int_handler)
client = tracking.connect(embedded_settings(Path(sys.argv[1])))
with training_lease(client, sys.argv[2], log=print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lease")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """As in a terminal: a shell lets what it runs in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def client(work: Path) -> Iterator[MlflowClient]:
    client = tracking.connect(tracked_settings(work))
    yield client
    assert lease.read_lease(client, NAME) is None, "it was not given back"


@pytest.fixture
def other(work: Path, client: MlflowClient) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the training."""
    command = [sys.executable, "-c", _HOLD, str(work), DIGEST]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(client: MlflowClient, said: list[str] | None = None, timing: Timing = SLOW) -> None:
    log = said.append if said is not None else pytest.fail
    with training_lease.training_lease(client, DIGEST, log=log, timing=timing):
        pass


def as_if_elsewhere(client: MlflowClient) -> None:
    client.set_registered_model_tag(NAME, "machine", "another boot of another kernel")


def test_the_second_is_told_who_trains_and_takes_over_when_that_one_is_killed(
    client: MlflowClient, other: subprocess.Popen[str]
) -> None:
    run = tracking.open_run(client, name="t", config={}, tags={"config_digest": DIGEST})
    message = (
        rf"run {run.info.run_id} is being trained by \S+, process {other.pid} "
        r"since 20.*UTC; stop it or wait"
    )
    with pytest.raises(ValueError, match=message):
        take(client)
    other.kill()
    # A signal is not yet a death: wait for it, but do not reap. A zombie is dead all the same.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    # Its lease of a minute is not waited for: `take` fails when it is told of waiting.
    take(client)


def test_who_may_not_delete_leaves_no_lock(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise MlflowException("not yours to delete", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "delete_registered_model", refused)
    for _ in range(2):
        with training_lease.training_lease(client, DIGEST, log=print) as is_lost:
            assert lease.read_lease(client, NAME) is not None
            assert not is_lost()


def test_one_that_was_asked_to_stop_gives_it_back(
    client: MlflowClient, other: subprocess.Popen[str]
) -> None:
    other.send_signal(signal.SIGINT)
    other.wait()
    assert lease.read_lease(client, NAME) is None


def test_one_that_lives_elsewhere_is_seen_by_its_beats(client: MlflowClient) -> None:
    said: list[str] = []
    with training_lease.training_lease(client, DIGEST, log=pytest.fail, timing=SLOW):
        as_if_elsewhere(client)
        with pytest.raises(ValueError, match="stop it or wait"):
            take(client, said)
    assert "on another machine" in said[0]
    assert "waiting up to" in said[1]


@pytest.mark.parametrize(("silent_s", "waits_s"), [(0.0, 2.0), (3600.0, 0.4)])
def test_one_that_died_elsewhere_is_waited_for(
    client: MlflowClient, silent_s: float, waits_s: float
) -> None:
    silent = Timing(heartbeat_s=3600.0, timeout_s=60.0)
    with training_lease.training_lease(client, DIGEST, log=pytest.fail, timing=silent) as is_lost:
        as_if_elsewhere(client)
        client.set_registered_model_tag(NAME, "heartbeat", str(time.time() - silent_s))
        said: list[str] = []
        begun_s = time.monotonic()
        take(client, said, FAST)
        assert time.monotonic() - begun_s >= waits_s
        assert len(said) == 2
        assert not is_lost()  # it would find out at its next beat


def test_of_many_at_once_one_trains(client: MlflowClient) -> None:
    together, everyone_tried = threading.Barrier(4), threading.Barrier(4)
    answers = []

    def attempt() -> None:
        together.wait()
        try:
            with training_lease.training_lease(client, DIGEST, log=pytest.fail, timing=SLOW):
                everyone_tried.wait()
                answers.append("held")
        except ValueError as error:
            everyone_tried.wait()
            answers.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count("held") == 1
    assert sum("is being trained by" in answer for answer in answers) == 3


def test_who_lost_it_is_interrupted_and_leaves_it_to_the_other(
    client: MlflowClient, interrupts: None
) -> None:
    seen = []

    def train_until_it_is_taken() -> None:
        with training_lease.training_lease(client, DIGEST, log=pytest.fail, timing=SLOW) as is_lost:
            seen.append(is_lost())
            client.set_registered_model_tag(NAME, "token", "of another one")
            try:
                time.sleep(120)
            finally:
                seen.append(is_lost())

    with pytest.raises(LostTrainingError, match="another driver took this training over"):
        train_until_it_is_taken()
    assert seen == [False, True]
    held = lease.read_lease(client, NAME)
    assert held is not None
    assert held.tags["token"] == "of another one"
    lease.delete_lease(client, NAME)


def test_one_that_was_deleted_by_hand_is_there_again(client: MlflowClient) -> None:
    with training_lease.training_lease(client, DIGEST, log=pytest.fail, timing=SLOW):
        lease.delete_lease(client, NAME)
        patience_s = time.monotonic() + 240
        while lease.read_lease(client, NAME) is None:
            assert time.monotonic() < patience_s
            time.sleep(0.1)
        with pytest.raises(ValueError, match=f"process {os.getpid()}"):
            take(client)
