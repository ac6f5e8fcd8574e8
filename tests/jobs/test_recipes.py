"""Every training recipe is tried out: its full size is built, its smoke trains on a CPU."""

import math
from pathlib import Path

import pytest
import torch

from infra.settings import Settings
from jobs.config import shrink_training
from jobs.recipes import TRAINING
from jobs.train.__main__ import recipe_after
from jobs.train.local import train_local
from models import system_of
from pipelines.bundles.export import example_hints, fuser_of_checkpoint
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from pipelines.training.config import TrainingConfig
from tests.conftest import make_version
from tests.models.lure.samples import singles

STAGE1 = [name for name in TRAINING if "_stage1_" in name]
# They differ from their recipe in a part of the networks or the loss, of which a step shows all.
ABLATED = [name for name in STAGE1 if name.startswith("lure_stage1_small_")]
# `jobs.demo --smoke` trains it, and the stage after it, in test_demo.py.
SHOWN = ["dspfusion_stage1_demo"]
# After Stage II; `mini` starts from the weights `small`, which are of such a run.
DISTILLED = {
    "dspfusion_stage2_small": "dspfusion_refitted_small",
    "dspfusion_refitted_small": "dspfusion_distilled_mini",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> Path:
    """A work folder with the dataset versions `rendered` and `linear`."""
    folder = tmp_path_factory.mktemp("recipes")
    shard = ShardConfig(
        vi=("blur", "random_noise", "low_light"),
        ir=("low_contrast", "random_noise", "stripe_noise"),
    )
    noise = ShardConfig(vi=("gaussian_noise",), ir=("gaussian_noise",), num_negatives=2)
    for name, each in (("rendered", shard), ("linear", noise)):
        config = DatasetConfig(name=name, scenes_per_shard=6, shard=each)
        make_version(LocalFolder(folder / "datasets"), config, scenes)
    return folder


@pytest.mark.parametrize("name", TRAINING)
def test_the_full_size_is_built(name: str) -> None:
    with torch.device("meta"):
        config = TRAINING[name]().objective
        objective = system_of(config).build_objective(config)
    assert any(parameter.requires_grad for parameter in objective.parameters())


def all_from(name: str) -> list[str]:
    """A Stage I recipe and those that go on from it, one after the other."""
    following = recipe_after(name) or DISTILLED.get(name)
    return [name, *(all_from(following) if following else [])]


def test_every_stage2_comes_after_a_stage1() -> None:
    reached = [each for name in STAGE1 for each in all_from(name)]
    assert sorted(reached) == sorted(TRAINING)
    assert all_from("dspfusion_stage1_small") == [
        "dspfusion_stage1_small",
        "dspfusion_stage2_small_prior",
        "dspfusion_stage2_small",
        "dspfusion_refitted_small",
        "dspfusion_distilled_mini",
    ]


def of_another_kind() -> list[str]:
    """Stage I recipes without those whose objective shrinks to that of one before: it is the same smoke."""
    kinds = {shrink_training(TRAINING[name]()).objective: name for name in reversed(STAGE1)}
    return [name for name in STAGE1 if name in kinds.values() and name not in {*ABLATED, *SHOWN}]


@pytest.mark.parametrize("name", ABLATED)
def test_an_ablation_takes_a_step_that_differs(name: str) -> None:
    def loss(recipe: str) -> tuple[float, float]:
        objective = system_of(TRAINING[recipe]().objective).build_objective(
            shrink_training(TRAINING[recipe]()).objective
        )
        terms = objective(singles(), 10**6)
        terms["loss"].backward()
        gradients = [p.grad.abs().sum() for p in objective.parameters() if p.grad is not None]
        return float(terms["loss"].detach()), float(torch.stack(gradients).sum())

    torch.manual_seed(0)
    own = loss(name)
    torch.manual_seed(0)
    assert all(math.isfinite(value) and value > 0 for value in own)
    # The inner residual and the guidance start as nothing: they differ in what they learn.
    assert own != loss("lure_stage1_small")


@pytest.mark.slow
@pytest.mark.parametrize("name", of_another_kind())
def test_its_smoke_trains_every_stage(name: str, work: Path) -> None:
    settings = Settings(work=work, tracking_uri="unused", artifact_root=None, ray_address=None)
    checkpoints: list[Path] = []
    for each in all_from(name):
        changes = {"init_from": str(checkpoints[-1])} if checkpoints else {}
        checkpoints.append(_smoke(each, settings, **changes))
    for checkpoint in checkpoints:
        _, fuser = fuser_of_checkpoint(checkpoint)
        hints = example_hints(system_of(TRAINING[name]().objective), 1)
        with torch.inference_mode():
            fused = fuser(torch.rand(1, 3, 24, 32), torch.rand(1, 1, 24, 32), hints).fused
        assert math.isfinite(float(fused.sum()))


def _smoke(name: str, settings: Settings, **changes: str) -> Path:
    recipe: TrainingConfig = shrink_training(TRAINING[name]())
    dataset = "linear" if system_of(recipe.objective).only_linear else "rendered"
    recipe = recipe.model_copy(update={"dataset": dataset, **changes})
    return train_local(recipe, settings, name=name)
