"""The way back of a real version, and what is said when a link of it was changed or is gone."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.promote import __main__ as command
from jobs.promote.decision import promote
from jobs.promote.trace import trace
from jobs.recipes.kinds import PromoteRecipe
from pipelines.promotion.lineage import broken
from tests.jobs.conftest import FirstDemo

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAME = "dspfusion-demo"
MODEL = f"models:/{NAME}@champion"


@pytest.fixture(scope="module")
def settings(first_demo: FirstDemo) -> Settings:
    """A work folder in which `jobs.demo --smoke` ran, and its version was promoted."""
    settings = first_demo.settings
    promote(
        PromoteRecipe(scenarios=("clean",)),
        settings,
        model=f"models:/{NAME}@challenger",
        force="a trial",
    )
    return settings


@pytest.fixture
def tags(settings: Settings) -> dict[str, str]:
    client = tracking.connect(settings)
    found: dict[str, str] = registry.find_model(client, MODEL).tags
    return found


@contextmanager
def changed(path: Path, data: bytes | None = None) -> Iterator[None]:
    """Flip the last byte of a file, or write `data`, and set it right afterwards."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]) if data is None else data)
    try:
        yield
    finally:
        path.write_bytes(before)


def problems(settings: Settings) -> list[str]:
    return broken(trace(settings, model=MODEL))


def artifacts(settings: Settings, run_id: str) -> Path:
    return settings.work / "mlflow-artifacts" / run_id / "artifacts"


def test_every_link_of_a_fresh_version_holds(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["job", "trace", MODEL, "--scenes", "--work", str(settings.work)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        command.COMMAND.run()
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert out.count("training run ") == 2
    assert out.count("scene demo-train-") == 8
    assert "every link holds" in out
    source = sorted((settings.work / "demo/sources/train/vi").iterdir())[0]
    with changed(source), pytest.raises(SystemExit) as ended:
        command.COMMAND.run()
    assert ended.value.code == 1
    assert f"{source}: is " in capsys.readouterr().out


def test_the_data(settings: Settings) -> None:
    source = sorted((settings.work / "demo/sources/train/ir").iterdir())[0]
    before = source.read_bytes()
    source.unlink()
    (problem,) = problems(settings)
    source.write_bytes(before)
    assert f"{source}: no such file" in problem
    [tar] = (settings.work / "datasets/shards").glob("*.tar")
    with changed(tar):
        (problem,) = problems(settings)
    assert f"> shards: {tar}" in problem
    [manifest] = (settings.work / "datasets/versions").glob("*.json")
    edited = json.loads(manifest.read_text())
    edited["config"]["shard"]["seed"] = 1
    with changed(manifest, json.dumps(edited).encode()):
        found = problems(settings)  # one for each stage's run
    assert all("its digest is not that of its contents" in problem for problem in found)
    assert found
    with changed(manifest, b"{}"):
        assert "not a dataset manifest" in problems(settings)[0]


def test_the_runs(settings: Settings, tags: dict[str, str]) -> None:
    client = tracking.connect(settings)
    stage1 = tags["init_from"].removeprefix("runs:/")
    with changed(artifacts(settings, stage1) / "checkpoint" / "model.safetensors"):
        (problem,) = problems(settings)
    assert f"training run {stage1} > checkpoint: model.safetensors is " in problem
    with changed(artifacts(settings, tags["run_id"]) / "checkpoint" / "state.json", b"{}"):
        assert "> checkpoint: " in problems(settings)[0]
    inputs = artifacts(settings, tags["run_id"]) / "lineage" / "inputs.json"
    text = inputs.read_bytes().replace(b'"num_steps": 4', b'"num_steps": 5')
    with changed(inputs, text):
        (problem,) = problems(settings)
    assert "inputs.json is not what config_digest" in problem
    client.delete_run(stage1)
    (problem,) = problems(settings)
    client.restore_run(stage1)
    assert f"training run {stage1}: it is gone" in problem


def test_the_registry(settings: Settings, tags: dict[str, str]) -> None:
    client: Any = tracking.connect(settings)
    version = registry.find_model(client, MODEL)
    [program] = settings.work.glob("mlflow-artifacts/**/program.pt2")
    with changed(program):
        (problem,) = problems(settings)
    assert problem.startswith(f"{MODEL} > bundle: program.pt2 is ")
    registry.tag_version(client, version, {"dataset_digest": "0" * 64})
    assert any("tag dataset_digest" in problem for problem in problems(settings))
    registry.tag_version(client, version, {"dataset_digest": tags["dataset_digest"]})
    with pytest.raises(ValueError, match="no such registered model"):
        trace(settings, model=f"models:/{NAME}/9")
    assert problems(settings) == []


def test_the_evaluation(settings: Settings, tags: dict[str, str]) -> None:
    rows = artifacts(settings, tags["evaluation_run_id"]) / "evaluation" / "rows.parquet"
    (number, event), *_ = registry.read_events(tracking.connect(settings), NAME).items()
    client = tracking.connect(settings)
    # As if it had been judged by others.
    registry.write_event(client, NAME, number, event | {"rows_sha256": "0" * 64})
    (problem,) = problems(settings)
    registry.write_event(client, NAME, number, event)
    assert "its rows are not those of the promotion of " in problem
    before = rows.read_bytes()
    rows.unlink()
    (problem,) = problems(settings)
    rows.write_bytes(before)
    assert "its rows are missing" in problem
