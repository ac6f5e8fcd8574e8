"""Logs for machines, from a command; test_ddp.py has those of a training's ranks."""

import json
import sys
from pathlib import Path

import pytest

from jobs.scan import __main__ as scan


@pytest.mark.slow
def test_a_command_tells_json(
    scene_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every line it prints, its facts and its mistakes, with the job it runs in."""

    def run(folder: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["scan", str(folder), "--work", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            scan.COMMAND.run()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    config = json.dumps({"metadata": {"job_submission_id": "scan-1"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    monkeypatch.setenv("FUSION_LOG", "json")
    assert run(scene_folder) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line["job"] == "scan-1" and line["level"] == "INFO" for line in lines)
    [shown] = [line["facts"] for line in lines if "facts" in line]
    assert shown["train"] == "16 scenes"
    assert any(line["message"] == "progress" and line["done"] == line["total"] for line in lines)
    assert run(tmp_path / "absent") == 2
    error = json.loads(capsys.readouterr().err)
    assert error["level"] == "ERROR"
    assert "no such folder" in error["message"]
    monkeypatch.setenv("FUSION_LOG", "jsn")
    assert run(scene_folder) == 2
    assert capsys.readouterr().err == "error: FUSION_LOG=jsn: write json or text\n"
