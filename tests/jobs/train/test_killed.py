"""kill -9 of the driver, checkpoints on S3: the same command goes on to the same bits.

While the driver lives a second one is refused.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.registry import tracking
from infra.settings import Settings
from jobs.config import find_recipe, override, shrink_training
from jobs.recipes import TRAINING
from jobs.train.local import train_local
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import read_weights
from tests.s3_servers import client_of, make_bucket
from tests.settings import tracked_settings

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).resolve().parents[3]
_NAME = "dspfusion_stage1_small"
_STEPS = 24


def listed_checkpoints(s3: Any, bucket: str) -> int:
    """How many checkpoints Ray Train's list on S3 names."""
    for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", ()):
        if entry["Key"].endswith("checkpoint_manager_snapshot.json"):
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            return len(json.loads(body)["checkpoint_results"])
    return 0


def wait_for(driver: subprocess.Popen[bytes], log: Path, there: Callable[[], bool]) -> None:
    patience_s = time.monotonic() + 900
    while not there():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < patience_s, log.read_text()
        time.sleep(0.1)


def test_the_same_command_resumes_to_the_same_bits(
    version_root: tuple[DatasetVersion, LocalFolder], moto_url: str, tmp_path: Path
) -> None:
    version, root = version_root
    bucket = make_bucket(moto_url, "driver-killed").removeprefix("s3://")
    work = tracked_settings(tmp_path / "work").work
    changes = [f"dataset={version.name}", f"optim.num_steps={_STEPS}", "optim.log_every=1"]
    changes += ["optim.checkpoint_every=4", "num_workers=1"]
    command = [sys.executable, "-m", "jobs.train", _NAME, "--smoke", "--work", str(work)]
    command += [word for change in changes for word in ("--set", change)]
    environment = os.environ | {
        "FUSION_DATASETS": str(root.path),
        "FUSION_RUNS": f"s3://{bucket}/runs",
        "AWS_ENDPOINT_URL": moto_url,
    }
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_for(driver, log_path, lambda: "dataset  " in log_path.read_text())
            second = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert driver.poll() is None, log_path.read_text()
            assert second.returncode == 2, second.stderr
            assert f"process {driver.pid} since" in second.stderr
            assert "stop it or wait" in second.stderr
            s3 = client_of(moto_url)  # one: making a client takes as long as a step
            wait_for(driver, log_path, lambda: listed_checkpoints(s3, bucket) >= 2)
        finally:
            driver.kill()
            driver.wait()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert "(resumed)" in again.stdout.decode()

    settings = Settings(
        work=work,
        datasets_uri=str(root.path),
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        artifact_root=f"{work}/mlflow-artifacts",
        ray_address=None,
    )
    client = tracking.connect(settings)
    runs = client.search_runs([tracking.experiment_id(client)])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    run_id = runs[0].info.run_id
    history = client.get_metric_history(run_id, "loss")
    # No gap and no repeat, and the losses of a run that nobody disturbed.
    assert sorted(metric.step for metric in history) == list(range(1, _STEPS + 1))
    recipe = override(shrink_training(find_recipe(TRAINING, _NAME)), changes)
    undisturbed = read_weights(train_local(recipe, settings, name="undisturbed"))
    resumed = read_weights(tracking.fetch_folder(run_id, "checkpoint", tmp_path / "fetched"))
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
