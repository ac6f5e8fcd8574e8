"""Logs for machines, from a command; test_ddp.py has those of a training's ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

from infra.settings import REPOSITORY


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
