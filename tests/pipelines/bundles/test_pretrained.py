"""Weights that come with the repository: what a folder holds, and what each of ours holds."""

from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from torch import nn

import tests.models.lure.samples as lure
from models import system_of
from models.dspfusion.config import DistilledConfig, Stage1Config, Stage2Config, tiny
from models.system import FuseOptions
from pipelines.bundles.export import read_bundle
from pipelines.bundles.pretrained import (
    SCENES,
    find_pretrained,
    local_folder,
    pretrained_folders,
    write_pretrained,
)
from pipelines.sources.index import read_index
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.training.checkpoints import TrainingState, read_weights, save_checkpoint
from pipelines.training.config import OptimConfig, TrainingConfig
from pipelines.training.objectives import make_objective, read_initial

SCENE = Scene(
    id="a", dataset="d", split="train", vi_uri="d/a.png", vi_sha256="1", width=9, height=9
)
OURS = sorted(pretrained_folders().items())


def training(objective: BaseModel) -> TrainingConfig:
    optim = OptimConfig(num_steps=3, crop_px=16)
    return TrainingConfig(objective=objective, optim=optim, dataset="d", init_from="x")


def checkpoint(config: TrainingConfig, folder: Path) -> nn.Module:
    """Write the objective of a training as a checkpoint; the objective."""
    objective = system_of(config.objective).build_objective(config.objective)
    optimizer = torch.optim.AdamW(objective.parameters())
    state = TrainingState(objective, optimizer, (1.0,), None)
    save_checkpoint(folder, state, step=3, config_json=config.model_dump_json())
    return objective


def test_a_folder_fuses_and_starts_a_training(tmp_path: Path) -> None:
    config = training(Stage2Config(model=tiny()))
    objective = checkpoint(config, tmp_path / "run")
    folder = tmp_path / "small"
    scenes = SceneTable.of([SCENE])
    write_pretrained(folder, tmp_path / "run", origin={"recipe": "r"}, scenes=scenes)

    fuser = read_bundle(folder).fuser()
    for name, weights in objective.state_dict().items():
        assert torch.equal(fuser.state_dict()[name], weights.half().float()), name
    for stage in (Stage1Config(model=tiny()), config.objective):
        started = make_objective(training(stage), read_initial(folder))
        for name, weights in started.state_dict().items():
            assert torch.equal(weights, fuser.state_dict()[name]), name
    assert read_index(folder / SCENES).scenes.ids() == ["a"]


def test_of_a_distilled_run_its_fuser_is_kept(tmp_path: Path) -> None:
    config = training(DistilledConfig(model=tiny(), teacher=tiny()))
    objective = checkpoint(config, tmp_path / "run")
    scenes = SceneTable.of([SCENE])
    write_pretrained(tmp_path / "mini", tmp_path / "run", origin={}, scenes=scenes)
    initial = read_initial(tmp_path / "mini")
    assert isinstance(initial.config, Stage2Config)
    assert initial.weights.keys() == objective.student.state_dict().keys()


def test_what_nothing_could_start_from_is_refused(tmp_path: Path) -> None:
    checkpoint(training(lure.STAGE1), tmp_path / "run")
    with pytest.raises(ValueError, match="leaves out what a training needs to start from it"):
        write_pretrained(tmp_path / "x", tmp_path / "run", origin={}, scenes=SceneTable.of([SCENE]))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="no pretrained weights 'smal'; there are: "):
        find_pretrained("smal")
    assert local_folder("./small") == Path("small")


@pytest.mark.parametrize(("name", "folder"), OURS, ids=[name for name, _ in OURS])
def test_ours_are_whole_and_fuse(name: str, folder: Path) -> None:
    weights = read_weights(folder)  # by its digests
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * 2**20
    scenes = read_index(folder / SCENES).scenes
    assert len(scenes) > 0
    assert not [scene.id for scene in scenes if str(scene.vi_uri).startswith(("/", "file:"))]
    assert (folder / "README.md").read_text().startswith(f"# {name}")
    bundle = read_bundle(folder)
    fuse = bundle.system.prepare(bundle.fuser(), FuseOptions())
    pair = torch.rand(1, 3, 40, 48), torch.rand(1, 1, 40, 48)
    with torch.no_grad():
        fused = fuse(*pair).fused
    assert fused.shape == pair[0].shape
    assert 0 <= float(fused.min()) <= float(fused.max()) <= 1
