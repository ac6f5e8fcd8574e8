"""The whole way on three hosts that share no disk, and what becomes of jobs there when something breaks."""

from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from tests.hosts.chaos import (
    FAULTS,
    INDEX,
    Kind,
    Outcome,
    list_keys,
    prepared,
    try_fault,
)
from tests.hosts.lab import MLFLOW_URL, Lab

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def of() -> Iterator[Lab]:
    """The hosts, for all tests of this file."""
    with prepared() as built:
        yield built


@pytest.fixture(scope="module")
def calm() -> dict[Kind, Outcome]:
    """What jobs that nothing disturbed have made."""
    return {}


def submit(of: Lab, *words: str) -> str:
    """Submit a command, wait for it; what it said."""
    log = of.folder / f"{words[0]}.log"
    assert of.submit(*words, log=log).wait() == 0, log.read_text()
    return log.read_text()


def run_id_of(client: MlflowClient, recipe: str) -> str:
    [experiment] = client.search_experiments(filter_string="name = 'ivif-fusion'")
    [run] = client.search_runs([experiment.experiment_id], f"tags.recipe = '{recipe}'")
    assert run.info.status == "FINISHED"
    return str(run.info.run_id)


def test_from_sources_to_a_champion(of: Lab) -> None:
    submit(of, "generate", "small", "--scenes", INDEX)
    dataset = ["--set", f"dataset={INDEX}-small", "--set", "num_workers=2"]
    submit(of, "train", "dspfusion_stage1_small", "--smoke", *dataset)
    client = MlflowClient(MLFLOW_URL)
    stage1 = run_id_of(client, "dspfusion_stage1_small")
    changes = [*dataset, "--set", f"init_from=runs:/{stage1}", "--set", "register_as=hosts"]
    submit(of, "train", "dspfusion_stage2_small", "--smoke", *changes)
    # Not --smoke: that is no evaluation to promote by.
    few = ["--set", 'scenarios=["clean","vi_blur"]', "--set", "steps=[]"]
    model = "models:/hosts@challenger"
    submit(of, "evaluate", model, "--scenes", INDEX, "--split", "val", *few)
    forced = ["--version", "1", "--force", "--reason", "four steps are no model"]
    submit(of, "promote", "hosts", *forced)
    assert client.get_model_version_by_alias("hosts", "champion").version == "1"
    submit(of, "promote", "trace", "models:/hosts@champion")  # fails at a link that is broken
    # Of what passed between the hosts nothing lies on a disk that they could share.
    assert list_keys("datasets/shards/")
    assert list_keys("runs/")
    assert list(of.hosts["head"].disk.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a node is killed", "a worker process is killed"], ids=["generate", "train"]
)
def test_what_breaks_costs_time_alone(of: Lab, calm: dict[Kind, Outcome], name: str) -> None:
    [fault] = [fault for fault in FAULTS if fault.name == name]
    outcome, same = try_fault(of, fault, calm)
    assert same
    assert outcome.stop_s > 0
    assert outcome.nodes_lost == (1 if "node" in name else 0)
