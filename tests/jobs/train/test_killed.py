"""kill -9 of the driver, checkpoints on S3: the same training goes on to the same bits.

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
from jobs.train.run import train
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
    version_root: tuple[DatasetVersion, LocalFolder],
    ray_settings: Settings,
    moto_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version, root = version_root
    bucket = make_bucket(moto_url, "driver-killed").removeprefix("s3://")
    tracked = tracked_settings(tmp_path / "work")
    changes = [f"dataset={version.name}", f"optim.num_steps={_STEPS}", "optim.log_every=1"]
    changes += ["optim.checkpoint_every=4", "num_workers=1"]
    command = [sys.executable, "-m", "jobs.train", _NAME, "--smoke", "--work", str(tracked.work)]
    command += [word for change in changes for word in ("--set", change)]
    environment = os.environ | {
        "FUSION_DATASETS": str(root.path),
        "FUSION_RUNS": f"s3://{bucket}/runs",
        "AWS_ENDPOINT_URL": moto_url,
    }
    # What the command reads of its line and its environment, for the others, which run in this process.
    recipe = override(shrink_training(find_recipe(TRAINING, _NAME)), changes)
    local = tracked.model_copy(update={"datasets_uri": str(root.path)})
    settings = local.model_copy(
        update={"runs_uri": f"s3://{bucket}/runs", "s3_endpoint_url": moto_url}
    )
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_for(driver, log_path, lambda: "dataset  " in log_path.read_text())
            refusal = rf"process {driver.pid} since .*stop it or wait"
            with pytest.raises(ValueError, match=refusal):
                train(recipe, settings, name=_NAME)
            assert driver.poll() is None, log_path.read_text()
            s3 = client_of(moto_url)  # one: making a client takes as long as a step
            wait_for(driver, log_path, lambda: listed_checkpoints(s3, bucket) >= 2)
        finally:
            driver.kill()
            driver.wait()
    # On the cluster of `ray_settings`.
    train(recipe, settings, name=_NAME)
    assert "(resumed)" in capsys.readouterr().out

    client = tracking.connect(settings)
    runs = client.search_runs([tracking.experiment_id(client)])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    run_id = runs[0].info.run_id
    history = client.get_metric_history(run_id, "loss")
    # No gap and no repeat, and the losses of a run that nobody disturbed.
    assert sorted(metric.step for metric in history) == list(range(1, _STEPS + 1))
    undisturbed = read_weights(train_local(recipe, local, name="undisturbed"))
    resumed = read_weights(tracking.fetch_folder(run_id, "checkpoint", tmp_path / "fetched"))
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
