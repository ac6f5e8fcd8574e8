"""Everything that goes through MLflow, on a server as one would deploy it: PostgreSQL behind it, its
artifacts on an S3 store that only the server knows, and the clients' one address in front.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.config import find_recipe, shrink_training
from jobs.evaluate.run import evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import Asked
from jobs.generate.run import generate, named
from jobs.promote.aliases import rollback
from jobs.promote.decision import promote
from jobs.promote.trace import trace
from jobs.recipes import DATASETS, TRAINING
from jobs.recipes.kinds import EvaluateRecipe, PromoteRecipe
from jobs.scan.run import scan_folder
from jobs.train.local import train_local
from jobs.train.run import train
from pipelines.promotion.lineage import broken
from tests.jobs.promote.test_promote import RECIPE, add_version, champion, promote_at_once
from tests.mlflow_server import mlflow_server
from tests.ray_head import free_port
from tests.s3_servers import RGW_URL, answers, make_bucket

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.s3real]


@pytest.fixture(scope="module")
def bucket(request: pytest.FixtureRequest) -> str:
    """A bucket of ours on the real S3 server: on the one that runs, else on one that we start."""
    if not answers(RGW_URL):
        request.getfixturevalue("gateway")
    return make_bucket(RGW_URL, f"mlflow-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="module")
def server(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on PostgreSQL and S3; its address."""
    url = f"http://127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("server") / "log"
    with mlflow_server(f"{bucket}/artifacts", RGW_URL, url, log):
        yield url


@pytest.fixture(scope="module")
def settings(
    server: str, ray_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A client of the server, with a work folder of its own."""
    work = tmp_path_factory.mktemp("client")
    return ray_settings.model_copy(
        update={"work": work, "tracking_uri": server, "artifact_root": None}
    )


def train_and_evaluate(settings: Settings, name: str, scene_folder: Path) -> None:
    """Stage I in this process, Stage II on Ray and on the server."""
    scan_folder(scene_folder, settings, name="served")
    recipe = named(find_recipe(DATASETS, "small"), "served")
    dataset = generate(recipe, settings, scenes="served", smoke=True)
    first, second = (
        shrink_training(find_recipe(TRAINING, f"dspfusion_{stage}_demo")).model_copy(
            update={"dataset": dataset.name, "num_workers": 1}
        )
        for stage in ("stage1", "stage2")
    )
    start = train_local(first, settings, name="first")
    changes = {"init_from": str(start), "register_as": name}
    trained = train(second.model_copy(update=changes), settings, name="second")
    assert trained.model == f"models:/{name}/1"
    evaluation = EvaluateRecipe(scenarios=("clean",), num_scenes=2, num_examples=1, steps=())
    evaluate(evaluation, settings, Asked(trained.model, SceneChoice("served")))


def test_train_evaluate_promote_trace(settings: Settings, bucket: str, scene_folder: Path) -> None:
    name = "served"
    train_and_evaluate(settings, name, scene_folder)
    recipe, challenger = PromoteRecipe(scenarios=("clean",)), f"models:/{name}@challenger"
    assert not promote(recipe, settings, model=challenger).passed
    promoted = promote(recipe, settings, model=challenger, force="a trial of the server")
    assert promoted.champion == "1"
    link = trace(settings, model=f"models:/{name}@champion")
    assert broken(link) == []
    # The bytes are in the bucket, not beside the client.
    s3 = boto3.client("s3", endpoint_url=RGW_URL, region_name="us-east-1")
    listed = s3.list_objects_v2(Bucket=bucket.removeprefix("s3://"))["Contents"]
    names = {entry["Key"].rpartition("/")[2] for entry in listed}
    assert {"program.pt2", "rows.parquet", "inputs.json", "scenes.parquet"} <= names
    [program] = [entry["Key"] for entry in listed if entry["Key"].endswith("program.pt2")]
    s3.put_object(Bucket=bucket.removeprefix("s3://"), Key=program, Body=b"another program")
    (problem,) = broken(trace(settings, model=f"models:/{name}@champion"))
    assert "> bundle: program.pt2 is " in problem


def test_of_two_promotions_over_http_one_wins(settings: Settings, tmp_path: Path) -> None:
    name = "contested"
    client = tracking.connect(settings)
    client.create_registered_model(name)
    numbers = [
        add_version(settings, tmp_path, level=level, name=name) for level in (1.2, 1.21, 1.22)
    ]
    said = promote_at_once(settings, name, numbers)
    held = champion(settings, name)
    losers = [number for number in numbers if number != held]
    assert held is not None
    assert said[held] == held
    assert len(losers) == 2
    assert all("under way, by " in said[number] for number in losers)
    # The lock is free again, and a long history fits into PostgreSQL's tags.
    best = add_version(settings, tmp_path, level=1.5, name=name)
    assert promote(RECIPE, settings, model=f"models:/{name}@challenger").champion == best
    assert rollback(settings, name=name, reason="x" * 4000).version == held
    events = registry.read_events(client, name)
    assert [event["action"] for event in events.values()] == ["promote", "promote", "rollback"]
    assert all(event["finished"] for event in events.values())
