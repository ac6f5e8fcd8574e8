import os
from pathlib import Path

import pytest

from infra.cluster.connect import worker_environment
from infra.settings import declared_environment, let_idle_threads_sleep, read_settings


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


def test_runs_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(work=tmp_path)
    assert settings.runs == str(tmp_path / "runs")
    assert settings.cache_bytes == 50 * 2**30
    assert settings.node_wait_s == 600
    monkeypatch.setenv("FUSION_RUNS", "s3://bucket/runs")
    monkeypatch.setenv("FUSION_CACHE_GIB", "0.5")
    monkeypatch.setenv("FUSION_NODE_WAIT_S", "90")
    monkeypatch.setenv("FUSION_INTERFACE", "eth1")
    settings = read_settings(work=tmp_path)
    assert settings.runs == "s3://bucket/runs"
    assert settings.cache_bytes == 2**29
    assert settings.node_wait_s == 90
    assert worker_environment(settings).items() >= {
        ("GLOO_SOCKET_IFNAME", "eth1"),
        ("NCCL_SOCKET_IFNAME", "eth1"),
    }
    assert declared_environment().items() >= {
        ("FUSION_RUNS", "s3://bucket/runs"),
        ("FUSION_CACHE_GIB", "0.5"),
        ("FUSION_NODE_WAIT_S", "90"),
        ("FUSION_INTERFACE", "eth1"),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_RUNS", "here")
    assert read_settings(work=tmp_path).runs == str(tmp_path / "here")
    for name, value in (
        ("FUSION_RUNS", "gs://bucket"),
        ("FUSION_RUNS", "s3://"),
        ("FUSION_CACHE_GIB", "much"),
        ("FUSION_WORKER_LOG", "yes"),
        ("FUSION_NODE_WAIT_S", "long"),
        ("FUSION_CACHE_GIB", "inf"),
        ("FUSION_CACHE_GIB", "-1"),
        ("FUSION_NODE_WAIT_S", "nan"),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"{name}={value}: give"):
            read_settings(work=tmp_path)
        monkeypatch.delenv(name)


def test_idle_threads_sleep_unless_a_person_wants_them_to_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
