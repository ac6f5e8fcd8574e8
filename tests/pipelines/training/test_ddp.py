"""Two ranks are one: the same loss, gradients and weights, and the same bits after a resume."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import start_processes

from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.training.checkpoints import TrainingState, read_state, save_checkpoint
from pipelines.training.config import TrainingConfig, ValidationConfig
from pipelines.training.previews import pairs_of_shards
from pipelines.training.validation import validate
from tests.pipelines.training import ddp_workload
from tests.pipelines.training.test_loop import Published, run, stage1_config


def start_two(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(rank, *arguments)` in two processes, forked from one that has torch imported.

    DDP imports `torch._dynamo`, which takes each process four seconds where it is not there already.
    """
    multiprocessing.set_forkserver_preload([ddp_workload.__name__, "torch._dynamo"])
    start_processes(function, arguments, nprocs=2, start_method="forkserver")


def run_two(config: TrainingConfig, folder: Path, *, resume: list[Path] | None = None) -> Path:
    """Run two ranks; `folder` lies beside the dataset's version."""
    folder.mkdir(exist_ok=True)
    payload = config.model_dump(mode="json")
    start_two(ddp_workload.train_rank, payload, folder.parent, folder, resume or [])
    return folder


def test_two_ranks_with_half_the_batch_are_one_with_the_whole(
    version_root: Published, tmp_path: Path
) -> None:
    settings = {"num_steps": 3, "checkpoint_every": 3, "log_every": 1}
    whole = run(stage1_config(version_root, batch_size=4, **settings), tmp_path / "one")
    halves = stage1_config(version_root, batch_size=2, **settings)
    two = run_two(halves.model_copy(update={"num_workers": 2}), tmp_path / "two")
    ranks = [json.loads((two / f"metrics-{rank}.json").read_text()) for rank in range(2)]
    # The first step is taken from the same weights: loss (contrastive too) and gradients agree.
    for name in ("loss", "contrastive", "fusion"):
        mean = (ranks[0][0][name] + ranks[1][0][name]) / 2
        assert mean == pytest.approx(whole[0][name], rel=1e-5)
    assert ranks[0][0]["grad_norm"] == ranks[1][0]["grad_norm"]
    assert ranks[0][0]["grad_norm"] == pytest.approx(whole[0]["grad_norm"], rel=1e-4)
    one = load_file(tmp_path / "one" / "3" / "model.safetensors")
    both = load_file(two / "3" / "model.safetensors")
    assert all(torch.allclose(one[key], both[key], atol=2e-5) for key in one)


def test_two_ranks_resume_bit_for_bit(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root, num_steps=4, checkpoint_every=2, batch_size=1)
    validation = ValidationConfig(every=2)
    config = config.model_copy(update={"num_workers": 2, "validation": validation})
    whole = run_two(config, tmp_path / "whole")
    resumed = run_two(config, tmp_path / "resumed", resume=[whole / "2"])
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = (load_file(folder / "4" / name) for folder in (whole, resumed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_state(whole / "4").best == read_state(resumed / "4").best
    # Two ranks share the pairs, and measure what one does.
    reports = json.loads((whole / "metrics-0.json").read_text())
    _, fuser = fuser_of_checkpoint(whole / "4")
    for name, value in validate(fuser, pairs_of_shards(*version_root), ()).items():
        assert reports[-1][f"val_{name}"] == value
    assert "val_" not in (whole / "metrics-1.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_another_number_of_workers_goes_on_where_the_first_stopped(
    version_root: Published, tmp_path: Path, first: int
) -> None:
    """From 1 to 2 and from 2 to 1: the same steps of the same samples, none twice and none left out."""
    config = stage1_config(version_root, num_steps=4, checkpoint_every=2, log_every=1)
    config = config.model_copy(update={"num_workers": first})
    curves = {}
    for name, world_size, resume in (
        ("whole", first, []),
        ("changed", 3 - first, [tmp_path / "whole" / "2"]),
    ):
        folder = tmp_path / name
        if world_size == 1:
            ranks = [run(config, folder, resume=resume)]
        else:
            run_two(config, folder, resume=resume)
            ranks = [json.loads((folder / f"metrics-{rank}.json").read_text()) for rank in range(2)]
        curves[name] = {
            lines[0]["step"]: sum(line["loss"] for line in lines) / world_size
            for lines in zip(*ranks, strict=True)
        }
    assert list(curves["whole"]) == [1, 2, 3, 4]
    assert list(curves["changed"]) == [3, 4]
    for step, loss in curves["changed"].items():
        # Other samples would give another loss: neighbouring steps differ far more than this.
        assert loss == pytest.approx(curves["whole"][step], rel=1e-4)
    one, other = (load_file(tmp_path / name / "4" / "model.safetensors") for name in curves)
    assert all(torch.allclose(one[key], other[key], atol=5e-5) for key in one)


def test_ranks_resume_from_the_newest_checkpoint_that_is_whole_for_both(tmp_path: Path) -> None:
    """One copy of step 6 is damaged on rank 0, one of step 4 on rank 1: both go on from step 2."""
    model = torch.nn.Linear(3, 2)
    state = TrainingState(model, torch.optim.AdamW(model.parameters()), (1.0,), None)
    for step in (2, 4, 6):
        with torch.no_grad():
            model.weight.fill_(step)
        for rank in range(2):
            folder = tmp_path / f"rank-{rank}" / str(step)
            save_checkpoint(folder, state, step=step, config_json="{}")
    for rank, step in ((0, 6), (1, 4)):
        damaged = tmp_path / f"rank-{rank}" / str(step) / "model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1])
    start_two(ddp_workload.resume_apart, tmp_path)
    for rank in range(2):
        some, none = (
            json.loads((tmp_path / f"{name}-{rank}").read_text()) for name in ("some", "none")
        )
        assert some == {"step": 2, "weight": 2.0}
        assert "no checkpoint is whole" in none["error"]


def test_replicas_that_drift_apart_are_named(tmp_path: Path) -> None:
    start_two(ddp_workload.drift_apart, tmp_path)
    for rank in range(2):
        assert "ranks [1] are not those of rank 0" in (tmp_path / f"said-{rank}").read_text()
