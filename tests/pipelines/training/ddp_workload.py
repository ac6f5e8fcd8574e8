"""What the two processes of a DDP test run: importable, so that a spawned process finds it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.datasets.versions import read_version
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import TrainingState, resume_newest
from pipelines.training.config import TrainingConfig
from pipelines.training.loop import TrainingTask, run_training
from pipelines.training.optimiser import check_replicas
from pipelines.training.previews import pairs_of_shards


def train_rank(
    rank: int, payload: dict[str, object], datasets: Path, folder: Path, resume: list[Path]
) -> None:
    """Train as one of two ranks; rank 0 keeps checkpoints, both write their metrics."""
    torch.set_num_threads(1)
    meeting = folder / f"meeting-{len(resume)}"
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    lines = []

    def report(metrics: dict[str, float], scratch: Path | None) -> None:
        lines.append(metrics)
        if scratch:
            scratch.rename(folder / str(int(metrics["step"])))
            scratch.mkdir()

    config, root = TrainingConfig.model_validate(payload), LocalFolder(datasets)
    assert config.dataset is not None
    pairs = pairs_of_shards(read_version(root, config.dataset), root) if config.validation else []
    run_training(
        TrainingTask(config, root, unseen=pairs),
        rank=rank,
        world_size=2,
        device="cpu",
        resume=resume,
        report=report,
    )
    (folder / f"metrics-{rank}.json").write_text(json.dumps(lines))
    distributed.destroy_process_group()


def resume_apart(rank: int, folder: Path) -> None:
    """Each rank has copies of its own of the checkpoints; it writes where it goes on."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = nn.Linear(3, 2)
    state = TrainingState(model, torch.optim.AdamW(model.parameters()), (1.0,), None)
    for name, copies in (("some", [6, 4, 2]), ("none", [6])):
        folders = [folder / f"rank-{rank}" / str(step) for step in copies]
        try:
            step = resume_newest(folders, state)
            said = {"step": step, "weight": float(model.weight[0, 0])}
        except ValueError as error:
            said = {"error": str(error)}
        (folder / f"{name}-{rank}").write_text(json.dumps(said))
    distributed.destroy_process_group()


def drift_apart(rank: int, folder: Path) -> None:
    """One rank changes a weight behind DDP's back; the check must say which."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = nn.Linear(3, 2)
    DistributedDataParallel(model)
    check_replicas(model)
    if rank == 1:
        with torch.no_grad():
            model.weight[0, 0] += 1e-6
    try:
        check_replicas(model)
    except ValueError as error:
        (folder / f"said-{rank}").write_text(str(error))
    distributed.destroy_process_group()
