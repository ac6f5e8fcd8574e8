import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.registry import tracking
from infra.settings import Settings
from tests.settings import tracked_settings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return tracking.connect(tracked_settings(tmp_path_factory.mktemp("tracking")))


def test_a_run_holds_parameters_tags_and_its_dataset(client: MlflowClient) -> None:
    run = tracking.open_run(
        client,
        name="train",
        config={"optim": {"lr": 0.5, "betas": [0.9, 0.99]}, "dataset": "d"},
        tags={"git_commit": "abc"},
        dataset=tracking.DatasetRef(name="d-1", digest="0" * 36, uri="/data/versions/d-1.json"),
    )
    read = client.get_run(run.info.run_id)
    assert read.data.params == {"optim.lr": "0.5", "optim.betas": "[0.9, 0.99]", "dataset": "d"}
    assert read.data.tags["git_commit"] == "abc"
    [used] = read.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("d-1", "0" * 36)
    assert "/data/versions/d-1.json" in used.dataset.source


def test_an_unfinished_run_is_taken_up_again(client: MlflowClient) -> None:
    tags = {"config_digest": "same"}
    first = tracking.open_run(client, name="a", config={"x": 1}, tags=tags).info.run_id
    tracking.fail_run(client, first, KeyboardInterrupt())
    stopped = client.get_run(first)
    assert stopped.info.status == "KILLED"
    assert stopped.data.tags["failure"] == "interrupted"
    again = tracking.open_run(client, name="a", config={"x": 1}, tags=tags).info.run_id
    assert again == first
    tracking.finish_run(client, first, tags={"registered_model": "models:/m/1"})
    found = tracking.find_run(client, "same")
    assert found is not None
    assert found.info.status == "FINISHED"
    assert found.data.tags["registered_model"] == "models:/m/1"
    assert "failure" not in found.data.tags
    other = tracking.open_run(client, name="a", config={"x": 1}, tags={"config_digest": "other"})
    assert other.info.run_id != first


def test_a_run_whose_opener_died_gets_what_it_lacks(client: MlflowClient) -> None:
    tags = {"config_digest": "half"}
    opened = client.create_run(tracking.experiment_id(client), tags=tags).info.run_id
    dataset = tracking.DatasetRef(name="d-1", digest="0" * 36, uri="/data/versions/d-1.json")
    for config in ({"x": 1}, {"x": 1}, {"x": 2, "y": 3}):
        # x cannot change any more: the run was found by what decides its weights, and has it.
        run = tracking.open_run(client, name="a", config=config, tags=tags, dataset=dataset)
        assert run.info.run_id == opened
    read = client.get_run(opened)
    assert read.data.params == {"x": "1", "y": "3"}
    assert len(read.inputs.dataset_inputs) == 1


def test_the_machine_is_watched_and_goes_on_after_a_pause(client: MlflowClient) -> None:
    run_id = tracking.open_run(client, name="machine", config={}, tags={}).info.run_id
    name = "system/system_memory_usage_megabytes"

    def steps() -> list[int]:
        return [step for step, _ in tracking.metric_curve(client, run_id, name)]

    for _ in range(2):
        before = len(steps())
        with tracking.system_metrics(client, run_id, every_s=0.1):
            patience_s = time.monotonic() + 120
            while len(steps()) < before + 2 and time.monotonic() < patience_s:
                time.sleep(0.1)
    assert len(steps()) >= 4
    assert steps() == list(range(len(steps())))


def test_folders_come_back(client: MlflowClient, tmp_path: Path) -> None:
    run_id = tracking.open_run(client, name="files", config={}, tags={}).info.run_id
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("hello")
    tracking.log_folder(client, run_id, tmp_path / "out", "result")
    folder = tracking.fetch_folder(run_id, "result", tmp_path / "back")
    assert (folder / "a.txt").read_text() == "hello"
    with pytest.raises(ValueError, match="no artifact 'nothing'"):
        tracking.fetch_folder(run_id, "nothing", tmp_path / "back")


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    settings = Settings(
        work=tmp_path,
        tracking_uri="http://127.0.0.1:9",
        artifact_root=None,
        ray_address=None,
    )
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        tracking.connect(settings)
