"""The training loop: one for both stages, with no cluster in it.

It is handed `resume` (checkpoint folders, the newest first) and `report(metrics, folder)`, and runs
the same under Ray Train, torchrun, or alone. Steps, not epochs, are the budget.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.dspfusion.config import fuser_config
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from pipelines.batches.prefetch import prefetch
from pipelines.batches.stream import Batch, ShardBatches
from pipelines.datasets.versions import read_version
from pipelines.store.folders import Folder
from pipelines.training.checkpoints import TrainingState, resume_newest, save_checkpoint
from pipelines.training.config import OptimConfig, TrainingConfig, learning_rate, share_of_step
from pipelines.training.objectives import make_objective
from pipelines.training.optimiser import check_replicas, group_shares, start_state, train_step
from pipelines.training.previews import Pair, current_fuser, draw_preview
from pipelines.training.window import Window, peak_memory_mib

# Numbers by name, and at times a preview: a PNG as base64 text, which passes wherever numbers do.
Metrics = dict[str, Any]
PREVIEW = "previews"
Report = Callable[[Metrics, Path | None], None]


def run_training(
    payload: dict[str, Any],
    *,
    datasets: Folder,
    stage1: dict[str, Tensor] | None = None,
    rank: int,
    world_size: int,
    device: str,
    resume: Iterable[Path],
    report: Report,
    pairs: Sequence[Pair] = (),
) -> None:
    """Train by a `TrainingConfig` (as JSON values, so that it can travel) on one device.

    `datasets` is the root that holds the version, `stage1` the weights that are gone on from (by
    default read from the folder that the configuration names), `resume` checkpoints, the newest
    first: the first that is whole is gone on from. `pairs` are what previews show.
    """
    config = TrainingConfig.model_validate(payload)
    optim = share_of_step(config.optim, config.num_workers or world_size, world_size)
    objective = make_objective(config, stage1)
    batches = ShardBatches(
        read_version(datasets, config.dataset),
        datasets,
        fields=objective.FIELDS,
        batch_size=optim.batch_size,
        crop_px=optim.crop_px,
        seed=optim.seed,
        rank=rank,
        world_size=world_size,
        late=optim.late,
    )
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # NCCL and the generators of kernels follow it
    objective.to(device)
    save = rank == 0
    train(config, optim, objective, batches, resume=resume, report=report, save=save, pairs=pairs)


def train(
    config: TrainingConfig,
    optim: OptimConfig,
    objective: Stage1 | Stage2,
    batches: ShardBatches,
    *,
    resume: Iterable[Path],
    report: Report,
    save: bool,
    pairs: Sequence[Pair] = (),
) -> None:
    """Train `objective` to the end of its budget; every rank reports at the same steps.

    `optim` is this rank's share of a step; checkpoints keep `config`. `report` gets the means since
    the last report and, of the rank that saves, the preview of `pairs` that is due; the folder of a
    checkpoint that is due comes with a second report of its step. Raises ValueError on a loss that is
    not finite or explodes, OSError when a checkpoint cannot be written.
    """
    device = next(objective.parameters()).device
    state = start_state(objective, optim)
    start = resume_newest(resume, state)
    if config.compiled:
        objective.compile()  # in place: its state keeps its names
    replica = _distributed(objective)
    stream = prefetch(
        batches.batch, range(start * optim.num_accumulated, optim.num_steps * optim.num_accumulated)
    )
    window = Window()
    shares = group_shares(objective)
    for step in range(start, optim.num_steps):
        parts = [_to(batch, device) for batch in islice(stream, optim.num_accumulated)]
        window.batch_ready()
        rate = learning_rate(step, optim)
        rates = [rate * share for share in shares]
        terms = train_step(replica, state.optimizer, parts, rates, optim.clip_norm, optim.precision)
        done = step + 1
        # Every step: an average that has taken a NaN in is lost, and so is the next checkpoint.
        _check_loss(float(terms["loss"]), optim, step, batches)
        state.average(objective)
        window.add(terms, num_samples=sum(len(part["position"]) for part in parts))
        due = done == optim.num_steps or done % optim.checkpoint_every == 0
        shown = bool(pairs) and _shows_preview(config, done)
        if due or shown or done % optim.log_every == 0:
            metrics = window.means() | {"step": float(done), "lr": rate} | peak_memory_mib(device)
            window = Window()
            preview = {PREVIEW: _preview(config, state, pairs)} if shown and save else {}
            report(metrics | preview, None)
            if due:
                # After it and apart: whoever is killed between keeping a checkpoint and logging what came
                # with it would leave a gap; and all that comes with a checkpoint is kept with it, and
                # written again with the next. A step that is reported again is not logged again.
                check_replicas(objective)
                _report_checkpoint(config, state, metrics, report, step=done, save=save)
            window.await_batch()


def _report_checkpoint(
    config: TrainingConfig,
    state: TrainingState,
    metrics: Metrics,
    report: Report,
    *,
    step: int,
    save: bool,
) -> None:
    """Report a step again, with its checkpoint's folder on the rank that saves."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        folder = Path(scratch) if save else None
        if folder:
            save_checkpoint(folder, state, step=step, config_json=config.model_dump_json(indent=1))
        report(metrics, folder)


def _shows_preview(config: TrainingConfig, done: int) -> bool:
    every = config.preview_every
    return every is not None and (done % every == 0 or done == config.optim.num_steps)


def _preview(config: TrainingConfig, state: TrainingState, pairs: Sequence[Pair]) -> str:
    model = state.model if state.averaged is None else state.averaged.module
    fuser = current_fuser(fuser_config(config.objective), model.state_dict())
    return base64.b64encode(draw_preview(fuser, pairs)).decode()


def _check_loss(loss: float, optim: OptimConfig, step: int, batches: ShardBatches) -> None:
    if not loss <= optim.max_loss:  # nor is NaN
        parts = range(step * optim.num_accumulated, (step + 1) * optim.num_accumulated)
        scenes = [scene for part in parts for scene in batches.scenes_at(part)]
        raise ValueError(
            f"the loss is {loss} at step {step + 1}; the batch held {', '.join(scenes)}; "
            "the last checkpoint is kept: lower optim.lr or optim.clip_norm, or look at those scenes"
        )


def _distributed(objective: nn.Module) -> nn.Module:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return objective
    return DistributedDataParallel(objective)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {field: value.to(device, non_blocking=True) for field, value in batch.items()}
