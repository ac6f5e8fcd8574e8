"""A finished training that is asked for again: registered where it was not, and told of newer code."""

from pathlib import Path

import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.config import override, shrink_training
from jobs.recipes import TRAINING
from jobs.train.inputs import plan_training
from jobs.train.records import open_training_run
from jobs.train.run import train
from pipelines.datasets.versions import DatasetVersion
from tests.settings import tracked_settings


@pytest.fixture(scope="module")
def settings(
    published: tuple[DatasetVersion, Path], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """MLflow in a folder of the tests, and the dataset version."""
    work = tracked_settings(tmp_path_factory.mktemp("reuse"))
    return work.model_copy(update={"datasets_uri": str(published[1])})


def test_its_registration_is_finished_and_newer_code_is_named(
    published: tuple[DatasetVersion, Path],
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version, _ = published
    client = tracking.connect(settings)
    smoke = shrink_training(TRAINING["dspfusion_stage1_small"]())
    recipe = override(smoke, [f"dataset={version.name}", "register_as=late"])
    planned = plan_training(recipe, settings, name="t")
    run_id = open_training_run(client, planned)
    # The code of the day before: the run was resumed by this one.
    client.set_tag(run_id, "git_commit", "0123")
    client.set_tag(run_id, "code_sha256", "old")
    assert open_training_run(client, planned) == run_id
    both = f"0123, {planned.tags['git_commit']}"
    assert client.get_run(run_id).data.tags["git_commit"] == both
    # As a kill between two calls of the registration leaves it: a version, no alias, no tag.
    client.create_registered_model("late")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    client.create_model_version("late", source, run_id=run_id, tags={"run_id": run_id})
    tracking.finish_run(client, run_id)

    trained = train(recipe, settings, name="t")
    assert (trained.run_id, trained.model) == (run_id, "models:/late/1")
    challenger = registry.find_model(client, "models:/late@challenger")
    assert (str(challenger.version), challenger.tags["run_id"]) == ("1", run_id)
    assert challenger.description.startswith("# late, version 1")
    assert client.get_run(run_id).data.tags["registered_model"] == "models:/late/1"
    said = capsys.readouterr().out
    assert f"the code has changed since: then {both}, now" in said
    assert "--again trains it anew" in said

    client.set_tag(run_id, "code_sha256", planned.tags["code_sha256"])
    assert train(recipe, settings, name="t").model == "models:/late/1"
    assert "--again" not in capsys.readouterr().out
    assert len(client.search_model_versions("name='late'")) == 1
    # What it is registered under is no other training.
    unnamed = recipe.model_copy(update={"register_as": None})
    assert train(unnamed, settings, name="t") == trained.model_copy(update={"model": None})


def test_again_opens_a_new_run_that_is_resumed_when_it_was_stopped(
    published: tuple[DatasetVersion, Path],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    smoke = shrink_training(TRAINING["dspfusion_stage1_small"]())
    recipe = override(smoke, [f"dataset={published[0].name}", "optim.seed=7"])
    planned, client = plan_training(recipe, settings, name="t"), tracking.connect(settings)
    first = open_training_run(client, planned)
    tracking.finish_run(client, first)

    class ClusterError(Exception):
        """In place of a cluster: this is about which run is opened."""

    def no_cluster(_: Settings) -> None:
        raise ClusterError

    monkeypatch.setattr("infra.cluster.connect.connected", no_cluster)
    assert train(recipe, settings, name="t").run_id == first
    with pytest.raises(ClusterError):
        train(recipe, settings, name="t", again=True)
    assert capsys.readouterr().out.count("trained already") == 1
    second = open_training_run(client, planned)
    assert second != first
    # Stopped half-way the new run is the one that is resumed, and the old one is not reported.
    with pytest.raises(ClusterError):
        train(recipe, settings, name="t")
    assert open_training_run(client, planned) == second
