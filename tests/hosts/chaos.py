"""python -m tests.hosts.chaos [FAULT …]: what becomes of jobs on three hosts when something breaks.

Each fault strikes a submitted job in the middle. Afterwards a generation's shards have to be the bytes
of an undisturbed one, and a training's steps, losses and weights those of an undisturbed one, each step
logged once. Prints a table; ends with status 1 when something was lost or is there twice.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient

from infra.registry import tracking
from infra.submit import JobServer, cluster_resources
from jobs.console import print_line
from pipelines.synthetic.pairs import write_scenes
from pipelines.training.checkpoints import read_weights
from tests.hosts.lab import JOBS_URL, MLFLOW_URL, S3_URL, WORKERS, Lab, lab
from tests.ray_head import TOKEN
from tests.s3_servers import client_of

BUCKET, INDEX = "fusion", "rendered"
_NUM_SCENES, _HEIGHT_PX, _WIDTH_PX = 48, 360, 480
_NUM_STEPS = 150
# So much has to be done, of shards or of checkpoints, before something breaks.
_STRIKE_AT = 3
_PATIENCE_S = 1800.0
_LOOK_S = 0.25
# Ray would look for the token once in a process, and find a test session's own.
_SERVER = JobServer(JOBS_URL, {"Authorization": f"Bearer {TOKEN}"})

Kind = Literal["generate", "train"]


@dataclass(frozen=True)
class Fault:
    """What breaks, and how it is mended: so many seconds later, or, with None, after the job.

    A job that is `lost` with it is submitted again when it is mended.
    """

    name: str
    kind: Kind
    strike: Callable[[Lab], None]
    mend: Callable[[Lab], None]
    mend_after_s: float | None
    lost: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a job ended: what it made, in seconds, with which longest stop after the fault."""

    made: Mapping[str, Any]
    took_s: float
    stop_s: float
    nodes_lost: int


def _kill_worker_process(of: Lab) -> None:
    """kill -9 of the training process on host b."""
    found = [pid for pid, line in of.hosts["b"].processes().items() if "RayTrainWorker" in line]
    assert found, "no training process on host b"
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def _restart_worker(of: Lab) -> None:
    of.hosts["b"].kill()
    of.start_ray("b")


def _plug_in(of: Lab) -> None:
    of.mend("b")
    _restart_worker(of)  # a node that was given up has ended


def _signal_mlflow(of: Lab, number: signal.Signals) -> None:
    for pid, line in of.hosts["head"].processes().items():
        if "mlflow" in line:
            os.kill(pid, number)


def _restart_all_of_ray(of: Lab) -> None:
    for name in ("head", *WORKERS):
        of.hosts[name].kill()
    for name in ("head", *WORKERS):
        of.start_ray(name)


def _nothing(of: Lab) -> None:
    """The fault mends itself."""


FAULTS = (
    Fault("a node is killed", "generate", lambda of: of.hosts["b"].kill(), _restart_worker, None),
    Fault("a node's link is cut", "generate", lambda of: of.cut("b"), _plug_in, None),
    Fault(
        "a node's link is cut for 3 s",
        "generate",
        lambda of: of.cut("b"),
        lambda of: of.mend("b"),
        3,
    ),
    Fault(
        "the S3 server is away for 20 s",
        "generate",
        lambda of: of.gateway.kill_gateway(),
        lambda of: of.gateway.start_gateway(),
        20,
    ),
    Fault("a worker process is killed", "train", _kill_worker_process, _nothing, None),
    Fault(
        "a node is killed, another comes after 10 s",
        "train",
        lambda of: of.hosts["b"].kill(),
        _restart_worker,
        10,
    ),
    Fault(
        "MLflow is away for 30 s",
        "train",
        lambda of: _signal_mlflow(of, signal.SIGSTOP),
        lambda of: _signal_mlflow(of, signal.SIGCONT),
        30,
    ),
    Fault(
        "Ray's head is killed and started again",
        "train",
        lambda of: of.hosts["head"].kill(),
        _restart_all_of_ray,
        5,
        lost=True,
    ),
)


class Generation:
    """Makes a dataset version at a root of its own."""

    def __init__(self, root: str) -> None:
        self.environment = {"FUSION_DATASETS": f"s3://{BUCKET}/{root}"}
        self.words = ("generate", "small", "--scenes", INDEX, "--set", "scenes_per_shard=4")
        self._shards = f"{root}/shards/"

    def progress(self) -> object:
        """How many objects there are."""
        return len(list_keys(self._shards))

    def made(self) -> dict[str, str]:
        """The digest of every object."""
        s3 = client_of(S3_URL)
        return {
            key.removeprefix(self._shards): hashlib.sha256(
                s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            ).hexdigest()
            for key in list_keys(self._shards)
        }


class Training:
    """Trains a small Stage I by two workers, on a host each, with a root of its own for checkpoints."""

    def __init__(self, root: str) -> None:
        self.environment = {
            "FUSION_DATASETS": f"s3://{BUCKET}/calm",
            "FUSION_RUNS": f"s3://{BUCKET}/{root}-runs",
        }
        changes = (f"dataset={INDEX}-small", "num_workers=2", f"optim.num_steps={_NUM_STEPS}")
        changes += ("optim.log_every=1", "optim.checkpoint_every=10")
        words = [word for change in changes for word in ("--set", change)]
        self.words = ("train", "dspfusion_stage1_small", "--smoke", *words)
        self._runs = f"{root}-runs/"

    def progress(self) -> object:
        """The newest checkpoint."""
        states = [key for key in list_keys(self._runs) if key.endswith("/state.json")]
        return max(states, default="")

    def made(self) -> dict[str, Any]:
        """Each step's loss, and the digest of the weights; the run is put away for the next one's sake."""
        store = MlflowClient(MLFLOW_URL)
        everywhere = [tracking.experiment_id(store)]
        [newest] = store.search_runs(everywhere, order_by=["start_time DESC"], max_results=1)
        digest = newest.data.tags["config_digest"]
        [run] = store.search_runs(everywhere, f"tags.config_digest = '{digest}'")
        assert run.info.status == "FINISHED", run.info.status
        found: dict[str, Any] = {
            "losses": tracking.metric_curve(store, run.info.run_id, "loss"),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            store.download_artifacts(run.info.run_id, "checkpoint", folder)
            weights = read_weights(path / "checkpoint")
        for name, weight in weights.items():
            found[name] = hashlib.sha256(weight.contiguous().numpy().tobytes()).hexdigest()
        store.delete_run(run.info.run_id)
        assert [step for step, _ in found["losses"]] == list(range(1, _NUM_STEPS + 1))
        return found


class Watch:
    """When a job has got on, and how often."""

    def __init__(self, job: Generation | Training, log: Path) -> None:
        self._job, self._log = job, log
        self._started_s = time.monotonic()
        self._seen = job.progress()
        self.moved_s: list[float] = []

    def until(self, true: Callable[[], bool]) -> None:
        """Look after the job until something is true."""
        while not true():
            assert self.took_s < _PATIENCE_S, self._log.read_text()[-4000:]
            with suppress(Exception):  # the store does not answer
                seen = self._job.progress()
                if seen != self._seen:
                    self._seen = seen
                    self.moved_s.append(time.monotonic())
            time.sleep(_LOOK_S)

    @property
    def took_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started_s

    def longest_stop_s(self, struck_s: float) -> float:
        """Longest time without progress since something broke."""
        after = [struck_s, *(at for at in self.moved_s if at > struck_s)]
        return max((later - earlier for earlier, later in pairwise(after)), default=0.0)


def run_job(of: Lab, root: str, kind: Kind, fault: Fault | None, log: Path) -> Outcome:
    """Submit a job, break something in the middle, mend it, wait for the end."""
    job = Generation(root) if kind == "generate" else Training(root)
    nodes_before = _nodes_lost()
    watch = Watch(job, log)
    process = of.submit(*job.words, log=log, **job.environment)
    struck_s = math.inf
    if fault:
        watch.until(lambda: len(watch.moved_s) >= _STRIKE_AT or process.poll() is not None)
        assert process.poll() is None, f"ended before anything broke: {log.read_text()[-4000:]}"
        fault.strike(of)
        struck_s = time.monotonic()
        watch.until(lambda: _is_due(fault, struck_s, process))
        if fault.lost:
            process.kill()
            process.wait()
            nodes_before = 0  # the new head knows of none
        fault.mend(of)
        if fault.lost:
            process = of.submit(*job.words, log=log, **job.environment)
    watch.until(lambda: process.poll() is not None)
    took_s = watch.took_s
    assert process.returncode == 0, log.read_text()[-4000:]
    wait_for_workers(of)
    stop_s = watch.longest_stop_s(struck_s)
    return Outcome(job.made(), took_s, stop_s, _nodes_lost() - nodes_before)


def _is_due(fault: Fault, struck_s: float, process: subprocess.Popen[bytes]) -> bool:
    """Whether it is time to mend."""
    if process.poll() is not None and not fault.lost:
        return True
    return fault.mend_after_s is not None and time.monotonic() - struck_s >= fault.mend_after_s


def _nodes_lost() -> int:
    """Nodes that Ray's head has given up since it started."""
    # Here, because pytest imports this module in every process of the tests, and this takes a second.
    from ray.util.state.api import StateApiClient
    from ray.util.state.common import ListApiOptions, StateResource

    api = StateApiClient(_SERVER.address, headers=dict(_SERVER.headers))
    nodes = api.list(StateResource.NODES, ListApiOptions(), raise_on_missing_output=False)
    return sum(node.state == "DEAD" for node in nodes)


def wait_for_workers(of: Lab) -> None:
    """Until both workers are part of the cluster; one whose Ray has ended is started again."""
    deadline = time.monotonic() + 400
    while cluster_resources(_SERVER).get("CPU", 0) < len(WORKERS):
        assert time.monotonic() < deadline, "the cluster has not got its workers"
        for name in WORKERS:
            ray = of.hosts[name].ray
            if ray is None or ray.poll() is not None:
                of.hosts[name].kill()
                of.start_ray(name)
        time.sleep(0.5)


def list_keys(prefix: str) -> list[str]:
    """Keys of the lab's bucket."""
    pages = (
        client_of(S3_URL).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    )
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def put_sources(of: Lab, *, num_scenes: int, height: int, width: int) -> None:
    """Render scenes, put them into the store, and index them by a job."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": num_scenes, "val": 2}
        write_scenes(Path(folder), split_counts=counts, seed=0, height=height, width=width)
        s3 = client_of(S3_URL)
        for path in sorted(Path(folder).rglob("*.png")):
            s3.upload_file(str(path), BUCKET, f"sources/{path.relative_to(folder)}")
    log = of.folder / "scan.log"
    scan = of.submit("scan", f"s3://{BUCKET}/sources", "--name", INDEX, log=log)
    assert scan.wait() == 0, log.read_text()


@contextmanager
def prepared() -> Iterator[Lab]:
    """The lab with scenes to make datasets of."""
    with lab() as built:
        wait_for_workers(built)
        put_sources(built, num_scenes=_NUM_SCENES, height=_HEIGHT_PX, width=_WIDTH_PX)
        yield built


def try_fault(of: Lab, fault: Fault, calm: dict[Kind, Outcome]) -> tuple[Outcome, bool]:
    """Let a fault strike; its outcome, and whether it made what an undisturbed job makes."""
    for kind in ("generate", fault.kind):  # a training reads the calm dataset
        if kind not in calm:
            calm[kind] = run_job(of, "calm", kind, None, of.folder / f"calm-{kind}.log")
    root = fault.name.replace(" ", "-").replace("'", "").replace(",", "")
    outcome = run_job(of, root, fault.kind, fault, of.folder / f"{root}.log")
    return outcome, outcome.made == calm[fault.kind].made


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.chaos", description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of: {'; '.join(names)}")
    wanted = parser.parse_args().faults or names
    if unknown := set(wanted) - set(names):
        parser.error(f"{', '.join(unknown)}: there are {'; '.join(names)}")
    calm: dict[Kind, Outcome] = {}
    right = True
    with prepared() as of:
        line = f"{'while':9} {'fault':44} {'nodes lost':>10} {'longest stop':>12} {'took':>7} {'calm':>7}"
        print_line(f"{line}  made")
        for fault in FAULTS:
            if fault.name not in wanted:
                continue
            outcome, same = try_fault(of, fault, calm)
            right &= same
            print_line(
                f"{fault.kind:9} {fault.name:44} {outcome.nodes_lost:10} {outcome.stop_s:10.1f} s "
                f"{outcome.took_s:5.0f} s {calm[fault.kind].took_s:5.0f} s  "
                + ("the same, once" if same else "SOMETHING ELSE")
            )
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
