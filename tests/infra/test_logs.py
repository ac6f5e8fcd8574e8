"""Logs for machines, from a command and from the ranks of a training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra import cluster
from infra.settings import REPOSITORY, Settings
from tests.infra.log_workload import Silent, report_once


def test_a_command_tells_json(scene_folder: Path, tmp_path: Path) -> None:
    """Every line it prints, its facts and its mistakes, with the job it runs in."""
    config = json.dumps({"metadata": {"job_submission_id": "scan-1"}})
    told = {"FUSION_LOG": "json", "RAY_JOB_CONFIG_JSON_ENV_VAR": config}

    def scan(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.scan", str(folder), "--work", str(tmp_path)]
        environment = {**os.environ, **environment}
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )

    lines = [json.loads(line) for line in scan(scene_folder, **told).stdout.splitlines()]
    assert all(line["job"] == "scan-1" and line["level"] == "INFO" for line in lines)
    [shown] = [line["facts"] for line in lines if "facts" in line]
    assert shown["train"] == "16 scenes"
    assert any(line["message"] == "progress" and line["done"] == line["total"] for line in lines)
    failed = scan(tmp_path / "absent", **told)
    error = json.loads(failed.stderr)
    assert (failed.returncode, error["level"]) == (2, "ERROR")
    assert "no such folder" in error["message"]
    wrong = scan(scene_folder, FUSION_LOG="jsn")
    assert wrong.stderr == "error: FUSION_LOG=jsn: write json or text\n"


@pytest.mark.ray
@pytest.mark.slow
def test_ranks_tell_json(
    ray_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("FUSION_LOG", "json")
    monkeypatch.setenv("FUSION_RUN", "the-run")
    cluster.run_ddp(
        report_once,
        {"folder": str(tmp_path)},
        name="told",
        settings=ray_settings,
        num_workers=2,
        use_gpu=False,
        on_report=Silent(),
    )
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    found: dict[int, dict[str, Any]] = {}
    for path in logs.glob("worker-*.err"):
        for line in path.read_text().splitlines():
            if line.startswith("{") and '"report"' in line:
                told = json.loads(line)
                found[told["rank"]] = told
    assert set(found) == {0, 1}
    assert all(line["run"] == "the-run" and line["step"] == 1.0 for line in found.values())
    assert found[1]["loss"] == 1.5
