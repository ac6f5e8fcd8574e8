"""Validation while training: it changes nothing, keeps the best, survives a kill, and may end the run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.metrics import measure
from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scan import scan
from pipelines.sources.scenes import SceneTable
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import (
    TrainingState,
    load_checkpoint,
    read_state,
    read_weights,
    save_checkpoint,
    weights_file,
)
from pipelines.training.config import TrainingConfig, ValidationConfig
from pipelines.training.loop import Metrics
from pipelines.training.previews import PreviewPair, fuse_pair, pairs_of_scenes
from pipelines.training.validation import VALIDATED, has_stopped, note_validation
from tests.pipelines.training.test_loop import run, stage1_config

Published = tuple[DatasetVersion, LocalFolder]
_OF_THE_MACHINE = ("samples_per_s", "data_wait_share", "host_peak_mib")


@pytest.fixture(scope="module")
def unseen(scene_folder: Path, published: tuple[DatasetVersion, Path]) -> list[PreviewPair]:
    """The pairs of the three scenes that no training of these sees."""
    val: SceneTable = scan(scene_folder, dataset="rendered").scenes.of_split("val")
    return pairs_of_scenes(val, published[0].config.shard, count=3)


def validated(config: TrainingConfig, **settings: object) -> TrainingConfig:
    return config.model_copy(update={"validation": ValidationConfig(**settings)})


def trained_numbers(reports: list[Metrics]) -> list[Metrics]:
    """What the training made of its batches, without what the machine and validation add."""
    return [
        {
            name: value
            for name, value in report.items()
            if not name.startswith("val_") and name not in _OF_THE_MACHINE
        }
        for report in reports
    ]


@pytest.mark.slow
def test_it_changes_nothing_and_goes_on_after_a_kill(
    version_root: Published, tmp_path: Path, unseen: list[PreviewPair]
) -> None:
    plain = stage1_config(version_root, checkpoint_every=2)
    config = validated(plain, every=2)
    without = run(plain, tmp_path / "without")
    reports = run(config, tmp_path / "whole", unseen=unseen)
    assert trained_numbers(reports) == trained_numbers(without)
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (load_file(tmp_path / run / "6" / name) for run in ("without", "whole"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    curve = {report["step"]: report["val_SSIM_target"] for report in reports}
    assert list(curve) == [2, 4, 6]
    best = read_state(tmp_path / "whole" / "6").best
    assert best is not None
    assert best.value == max(curve.values()) == curve[best.step]
    # As an evaluation measures what the checkpoint's fuser makes of the same pairs.
    _, fuser = fuser_of_checkpoint(tmp_path / "whole" / "6")
    values = [
        measure(fuse_pair(fuser, pair), to_tensor(pair.vi_gt), to_tensor(pair.ir_gt), VALIDATED)
        for pair in unseen
    ]
    for name in VALIDATED:
        mean = float(torch.stack([found[name] for found in values]).mean())
        assert reports[-1][f"val_{name}"] == pytest.approx(mean, rel=1e-12)

    run(config, tmp_path / "cut", unseen=unseen, stop_at=4)
    again = run(config, tmp_path / "cut", unseen=unseen, resume=[tmp_path / "cut" / "2"])
    assert {report["step"]: report["val_SSIM_target"] for report in again} == {
        step: curve[step] for step in (4, 6)
    }
    assert read_state(tmp_path / "cut" / "6") == read_state(tmp_path / "whole" / "6")


def test_no_better_validation_ends_the_run(
    version_root: Published, tmp_path: Path, unseen: list[PreviewPair]
) -> None:
    """Weights that stay make the same pictures: the second validation is no better than the first."""
    plain = stage1_config(version_root, lr=1e-12, checkpoint_every=6, log_every=6)
    config = validated(plain, every=1, patience=1)
    reports = run(config, tmp_path / "run", unseen=unseen)
    assert [report["step"] for report in reports] == [1, 2, 2]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["2"]
    assert run(config, tmp_path / "run", unseen=unseen, resume=[tmp_path / "run" / "2"]) == []


def small_state() -> TrainingState:
    model = nn.Linear(3, 2)
    state = TrainingState(model, torch.optim.AdamW(model.parameters()), (1.0,), None)
    state.best.subject = "these scenes"
    return state


def test_the_recipe_says_whether_the_best_or_the_last_is_the_model(tmp_path: Path) -> None:
    state, patient = small_state(), ValidationConfig(every=1, patience=2)
    for step, (weight, value) in enumerate(((1.0, 0.5), (2.0, 0.7), (3.0, 0.7), (4.0, 0.6)), 1):
        with torch.no_grad():
            state.model.weight.fill_(weight)
        assert not has_stopped(state, patient)
        note_validation(state, value, step)
    assert has_stopped(state, patient)
    assert not has_stopped(state, ValidationConfig(every=1))
    for registers, weight in (("best", 2.0), ("last", 4.0)):
        folder = tmp_path / registers
        save_checkpoint(folder, state, step=4, config_json="{}", registers=registers)
        assert float(read_weights(folder)["weight"][0, 0]) == weight
        assert float(load_file(folder / "best.safetensors")["weight"][0, 0]) == 2.0
    again = small_state()
    assert load_checkpoint(tmp_path / "last", again) == 4
    assert again.best.found == state.best.found
    assert torch.equal(again.best.weights["weight"], state.best.weights["weight"])
    # What was measured on other scenes is not compared with.
    other = small_state()
    other.best.subject = "other scenes"
    load_checkpoint(tmp_path / "last", other)
    assert other.best.found is None
    weights = weights_file(tmp_path / "best")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"best\.safetensors: missing or truncated"):
        load_checkpoint(tmp_path / "best", small_state())


def test_only_validation_that_decides_is_another_training(version_root: Published) -> None:
    plain = stage1_config(version_root)
    looking = validated(plain, every=2)
    assert looking.identity() == plain.identity()
    assert plain.model_copy(update={"register_as": "other"}).identity() == plain.identity()
    for settings in ({"registers": "best"}, {"patience": 3}):
        deciding = validated(plain, every=2, **settings)
        assert deciding.identity() != plain.identity()
