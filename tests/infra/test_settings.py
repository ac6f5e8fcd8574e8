from pathlib import Path

import pytest

from infra.settings import read_settings


def test_defaults_lie_under_the_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FUSION_WORK", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert settings.work == tmp_path / "work"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/work/mlflow.db"
    assert settings.artifact_root == f"{tmp_path}/work/mlflow-artifacts"
    assert settings.ray_address is None


def test_arguments_win_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSION_WORK", str(tmp_path / "environment"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    settings = read_settings()
    assert settings.work == tmp_path / "environment"
    assert settings.tracking_uri == "http://mlflow:5000"
    # A server decides itself where artifacts go.
    assert settings.artifact_root is None
    assert settings.ray_address == "ray-head:6379"
    settings = read_settings(work=tmp_path / "given", ray_address="other:6379")
    assert settings.work == tmp_path / "given"
    assert settings.ray_address == "other:6379"
