import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from infra import registry, tracking
from infra.settings import REPOSITORY, Settings
from pipelines.export import load_bundle

NAME = "fuser-under-test"

# Runs in an interpreter that knows neither this repository nor the test's environment.
LOAD_AND_FUSE = """
import importlib.util, sys
import mlflow, numpy as np
for name in ("degradations", "models", "pipelines", "infra", "jobs"):
    assert importlib.util.find_spec(name) is None, name
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
arrays = np.load(sys.argv[3])
np.save(sys.argv[4], model.predict({"vi": arrays["vi"], "ir": arrays["ir"]}))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    work = tmp_path_factory.mktemp("registry")
    return Settings(
        work=work,
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        artifact_root=f"{work}/mlflow-artifacts",
        ray_address=None,
    )


@pytest.fixture(scope="module")
def client(settings: Settings, tiny_bundle: Path) -> MlflowClient:
    """A registry with two versions of one model."""
    client = tracking.connect(settings)
    for number in ("1", "2"):
        run_id = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
        version = registry.register_bundle(
            client,
            NAME,
            tiny_bundle,
            run_id=run_id,
            tags={"dataset_digest": "d"},
            requirements=["torch"],
        )
        assert str(version.version) == number
    return client


def test_a_new_version_is_the_challenger_with_its_tags(client: MlflowClient) -> None:
    version = registry.find_model(client, f"models:/{NAME}@challenger")
    assert str(version.version) == "2"
    assert version.tags["dataset_digest"] == "d"
    assert str(registry.find_model(client, f"models:/{NAME}/1").version) == "1"


@pytest.mark.slow
def test_it_loads_where_this_repository_is_unknown(
    client: MlflowClient, settings: Settings, tiny_bundle: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    vi = rng.random((2, 3, 37, 50), np.float32)
    ir = rng.random((2, 1, 37, 50), np.float32)
    np.savez(tmp_path / "pair.npz", vi=vi, ir=ir)
    arguments = [settings.tracking_uri, f"models:/{NAME}@challenger"]
    paths = [str(tmp_path / "pair.npz"), str(tmp_path / "fused.npy")]
    done = subprocess.run(
        # -I: neither the folder it runs in nor PYTHONPATH is on its path.
        [sys.executable, "-I", "-c", LOAD_AND_FUSE, *arguments, *paths],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not tmp_path.is_relative_to(REPOSITORY)
    with torch.inference_mode():
        ours = load_bundle(tiny_bundle)(torch.from_numpy(vi), torch.from_numpy(ir))
    np.testing.assert_allclose(np.load(tmp_path / "fused.npy"), ours.numpy(), atol=1e-4)


def test_a_bundle_comes_back_whole(client: MlflowClient, tiny_bundle: Path, tmp_path: Path) -> None:
    version = registry.find_model(client, f"models:/{NAME}/2")
    bundle = registry.fetch_bundle(client, version, tmp_path)
    for file in tiny_bundle.iterdir():
        assert (bundle / file.name).read_bytes() == file.read_bytes()


def test_promotion_keeps_the_previous_champion(client: MlflowClient) -> None:
    first, second = (registry.find_model(client, f"models:/{NAME}/{n}") for n in (1, 2))
    assert registry.find_alias(client, NAME, registry.CHAMPION) is None
    registry.promote(client, first, {"promoted_by": "me"})
    registry.promote(client, second, {"promoted_by": "you"})
    champion = registry.find_alias(client, NAME, registry.CHAMPION)
    previous = registry.find_alias(client, NAME, registry.PREVIOUS)
    assert champion is not None
    assert previous is not None
    assert (str(champion.version), str(previous.version)) == ("2", "1")
    assert champion.tags["promoted_by"] == "you"


def test_two_promotions_at_once(settings: Settings) -> None:
    with (
        registry.promotion_lock(settings, NAME),
        pytest.raises(ValueError, match="under way"),
        registry.promotion_lock(settings, NAME),
    ):
        pass
    with registry.promotion_lock(settings, NAME):
        pass


@pytest.mark.parametrize("uri", ["models:/absent/1", f"models:/{NAME}@absent", f"models:/{NAME}/9"])
def test_what_does_not_exist_is_named(client: MlflowClient, uri: str) -> None:
    with pytest.raises(ValueError, match=uri):
        registry.find_model(client, uri)


@pytest.mark.parametrize("uri", ["fuser", "models:/fuser", "models:/fuser/latest"])
def test_what_is_no_model_address(client: MlflowClient, uri: str) -> None:
    with pytest.raises(ValueError, match="models:/NAME@ALIAS"):
        registry.find_model(client, uri)
