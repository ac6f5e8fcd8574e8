"""The training loop on a GPU: it resumes exactly, alone and as the one rank of NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed

from models.dspfusion.config import Stage1Config, tiny
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import read_weights
from pipelines.training.config import OptimConfig, TrainingConfig
from pipelines.training.loop import Metrics, TrainingTask, run_training

Dataset = tuple[DatasetVersion, LocalFolder]


def config_of(dataset: Dataset, **optim: object) -> TrainingConfig:
    settings = {"num_steps": 6, "batch_size": 2, "crop_px": 32, "lr": 1e-3, "clip_norm": 1.0}
    settings |= {"log_every": 2, "checkpoint_every": 3, "precision": "bf16", "ema_decay": 0.9}
    return TrainingConfig(
        objective=Stage1Config(model=tiny()),
        optim=OptimConfig.model_validate(settings | optim),
        dataset=dataset[0].name,
    )


def run(
    config: TrainingConfig, dataset: Dataset, folder: Path, resume: list[Path] | None = None
) -> list[Metrics]:
    reports: list[Metrics] = []

    def report(metrics: Metrics, scratch: Path | None) -> None:
        reports.append(metrics)
        if scratch:
            scratch.rename(folder / str(int(metrics["step"])))
            scratch.mkdir()

    folder.mkdir(exist_ok=True)
    run_training(
        TrainingTask(config, dataset[1]),
        rank=0,
        world_size=1,
        device="cuda",
        resume=resume or [],
        report=report,
    )
    return reports


def test_it_resumes_from_its_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset)
    reports = run(config, dataset, tmp_path / "whole")
    assert reports[-1]["cuda_peak_mib"] > 0
    resume = [tmp_path / "whole" / "3"]
    resumed = run(config, dataset, tmp_path / "cut", resume)
    # Kernels of a GPU add in any order, so not to the bit.
    assert resumed[-1]["loss"] == pytest.approx(reports[-1]["loss"], rel=1e-3)
    whole, cut = (read_weights(tmp_path / name / "6") for name in ("whole", "cut"))
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=1e-3, rtol=1e-2)


def test_a_bad_loss_is_found_before_a_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset, lr=1e30, clip_norm=1e30, precision="fp32", ema_decay=None)
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d; the batch held"):
        run(config, dataset, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_one_rank_of_nccl_takes_the_same_steps(dataset: Dataset, tmp_path: Path) -> None:
    alone = run(config_of(dataset), dataset, tmp_path / "alone")
    distributed.init_process_group("nccl", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        replica = run(config_of(dataset), dataset, tmp_path / "replica")
    finally:
        distributed.destroy_process_group()
    assert replica[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-3)
