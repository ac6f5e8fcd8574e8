"""The training loop: one for every stage of every system, with no cluster in it.

It takes `resume` (checkpoint folders, the newest first) and `report(metrics, folder)`, and runs
the same under Ray Train, torchrun, or alone. Steps, not epochs, are the budget.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import system_of
from models.devices import sent, use_device
from models.layers.blocks import TransformerBlock
from models.layers.recompute import recompute_blocks
from models.system import Batch, Initial
from pipelines.batches.decoding import to_floats
from pipelines.batches.prefetch import prefetch
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.versions import read_version
from pipelines.store.folders import Folder
from pipelines.training.checkpoints import TrainingState, resume_newest, save_checkpoint
from pipelines.training.config import OptimConfig, TrainingConfig, share_of_step
from pipelines.training.objectives import make_objective
from pipelines.training.optimiser import check_replicas, start_state, train_step
from pipelines.training.previews import PreviewPair, current_fuser, draw_preview
from pipelines.training.validation import has_stopped, note_validation, subject_of, validate
from pipelines.training.window import Window, peak_memory_mib

# Numbers by name, and at some steps a preview: a PNG as base64 text, which travels like a number.
Metrics = dict[str, Any]
PREVIEW = "previews"
Report = Callable[[Metrics, Path | None], None]


@dataclass(frozen=True)
class TrainingTask:
    """What all workers of a training get; it travels to them by value.

    `datasets` is the root that holds the dataset version, `pairs` are what previews show, `unseen` what
    is validated on.
    """

    config: TrainingConfig
    datasets: Folder
    initial: Initial | None = None
    pairs: Sequence[PreviewPair] = ()
    unseen: Sequence[PreviewPair] = ()


def run_training(
    task: TrainingTask,
    *,
    rank: int,
    world_size: int,
    device: str,
    resume: Iterable[Path],
    report: Report,
) -> None:
    """Train on one worker to the end of the budget, or until validations are no better for too long.

    `resume` are folders of checkpoints, the newest first; the first that is whole is resumed from. Every
    rank reports at the same steps: the means since the last report and, on rank 0, the validation and the
    preview that are due; the folder of a checkpoint that is due comes with a second report of its step.
    Raises ValueError on a loss that is not finite or explodes, OSError when a checkpoint cannot be written.
    """
    place, config = use_device(device), task.config
    optim = share_of_step(config.optim, config.num_workers, world_size)
    objective = make_objective(config, task.initial)
    batches = _open_batches(task, optim, objective.FIELDS, rank, world_size)
    if optim.recompute_blocks:
        recompute_blocks(objective, getattr(objective, "RECOMPUTED", (TransformerBlock,)))
    state = start_state(objective.to(place), optim)
    if config.validation:
        assert task.unseen, "the driver leaves validation out where there is nothing to validate on"
        state.best.subject = subject_of(task.unseen, config.validation)
    start = resume_newest(resume, state)
    end = start if has_stopped(state, config.validation) else optim.num_steps
    replica = _replicate(objective, compiled=config.compiled)
    reports = _Reports(task, state, report, place, rank, world_size)
    micro_steps = range(start * optim.num_accumulated, end * optim.num_accumulated)
    stream = _made_ahead(batches, micro_steps, place, threads=config.cpus_per_worker)
    window, stays = Window(), getattr(objective, "ON_CPU", ())
    for step in range(start, end):
        parts = [_sent(batch, place, stays) for batch in islice(stream, optim.num_accumulated)]
        window.batch_ready()
        terms = train_step(replica, state, parts, optim, step=step, rank=rank)
        _after_step(objective, state, step)
        window.add(terms, num_samples=sum(len(part["position"]) for part in parts))
        # A GPU is asked for its losses when a report is due, before anything of them is kept: to ask
        # every step would let it wait. A CPU has them.
        if place.type == "cpu" or reports.is_due(step + 1):
            _check_losses(window.new_losses(), optim, step, batches)
        if reports.is_due(step + 1):
            # Opened before the report: the time that it takes counts for the pace.
            seen, window = window, Window()
            reports.send(seen, step + 1)
        if has_stopped(state, config.validation):
            return
        window.await_batch()


def _open_batches(
    task: TrainingTask, optim: OptimConfig, fields: tuple[str, ...], rank: int, world_size: int
) -> ShardBatches:
    assert task.config.dataset is not None, "the driver has named the version"
    batching = Batching(
        fields,
        optim.batch_size,
        optim.crop_px,
        optim.seed,
        sampler=task.config.stage.sampler,
        late=optim.late,
        window_shards=optim.window_shards,
    )
    version = read_version(task.datasets, task.config.dataset)
    return ShardBatches(version, task.datasets, batching, rank=rank, world_size=world_size)


def _made_ahead(
    batches: ShardBatches, steps: Iterable[int], device: torch.device, *, threads: int
) -> Iterator[dict[str, Tensor]]:
    """Batches made by threads: floats for a CPU, for a GPU uint8 in memory that it copies from."""

    def make(step: int) -> dict[str, Tensor]:
        batch = batches.batch(step)
        if device.type == "cuda":
            return {field: value.pin_memory() for field, value in batch.items()}
        return to_floats(batch)

    with closing(batches):
        yield from prefetch(make, steps, threads=threads)


def _replicate(objective: nn.Module, *, compiled: bool) -> nn.Module:
    if compiled:
        objective.compile()  # in place: its state keeps its names
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return objective
    return DistributedDataParallel(objective)


def _after_step(objective: Any, state: TrainingState, step: int) -> None:
    """Let the objective update what follows its weights, then update the running average."""
    if hasattr(objective, "after_step"):
        objective.after_step(step)
    if state.averaged is not None:
        state.averaged.update_parameters(objective)


@dataclass(frozen=True)
class _Reports:
    """When something is reported, and what."""

    task: TrainingTask
    state: TrainingState
    report: Report
    device: torch.device
    rank: int
    world_size: int

    @property
    def config(self) -> TrainingConfig:
        """The training's."""
        return self.task.config

    def is_due(self, done: int) -> bool:
        """Whether a report is due after so many steps."""
        due = self._every(done, self.config.optim.log_every) or self._validates_after(done)
        return due or self._saves_after(done) or self._shows_after(done)

    def send(self, window: Window, done: int) -> None:
        """Report what the window saw; then again, with the checkpoint that is due.

        Validation comes first: it may be the last step then, after which all is due.
        """
        validation = self._validate(done) if self._validates_after(done) else {}
        lr = self.state.optimizer.param_groups[0]["lr"] / self.state.rate_shares[0]
        metrics = window.means() | {"step": float(done), "lr": lr} | peak_memory_mib(self.device)
        if self.rank == 0:
            metrics |= validation
        preview = {}
        if self.rank == 0 and self._shows_after(done):
            fuser, pairs = self._fuser(), self.task.pairs
            picture = draw_preview(fuser, pairs, system_of(self.config.objective).hint_names)
            preview = {PREVIEW: base64.b64encode(picture).decode()}
        self.report(metrics | preview, None)
        if self._saves_after(done):
            # A report of its own, after the other: a driver that is killed between the two leaves no
            # gap in the metrics, and the preview is not stored with the checkpoint. A step that is
            # reported again is not logged again.
            check_replicas(self.state.model)
            self._send_checkpoint(metrics, done)

    def _every(self, done: int, every: int | None) -> bool:
        if every is None:
            return False
        stopped = has_stopped(self.state, self.config.validation)
        return done % every == 0 or done == self.config.optim.num_steps or stopped

    def _saves_after(self, done: int) -> bool:
        return self._every(done, self.config.optim.checkpoint_every)

    def _shows_after(self, done: int) -> bool:
        return bool(self.task.pairs) and self._every(done, self.config.preview_every)

    def _validates_after(self, done: int) -> bool:
        validation = self.config.validation
        return validation is not None and self._every(done, validation.every)

    def _validate(self, done: int) -> Metrics:
        assert self.config.validation is not None
        found = validate(
            self._fuser(),
            self.task.unseen,
            system_of(self.config.objective).hint_names,
            rank=self.rank,
            world_size=self.world_size,
        )
        note_validation(self.state, found[self.config.validation.best_by], done)
        return {f"val_{name}": value for name, value in found.items()}

    def _send_checkpoint(self, metrics: Metrics, done: int) -> None:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            folder = Path(scratch) if self.rank == 0 else None
            if folder:
                validation = self.config.validation
                save_checkpoint(
                    folder,
                    self.state,
                    step=done,
                    config_json=self.config.model_dump_json(indent=1),
                    registers=validation.registers if validation else "last",
                )
            self.report(metrics, folder)

    def _fuser(self) -> nn.Module:
        """The fuser of the current weights."""
        return current_fuser(self.config.objective, self.state.shown)


def _check_losses(
    losses: Sequence[float], optim: OptimConfig, last_step: int, batches: ShardBatches
) -> None:
    """Raise ValueError, naming step and scenes, at the first of the steps' losses that is none."""
    for step, loss in enumerate(losses, start=last_step - len(losses) + 1):
        if loss <= optim.max_loss:  # which NaN is not
            continue
        parts = range(step * optim.num_accumulated, (step + 1) * optim.num_accumulated)
        scenes = [scene for part in parts for scene in batches.scenes_at(part)]
        raise ValueError(
            f"the loss is {loss} at step {step + 1}; the batch held {', '.join(scenes)}; "
            "the last checkpoint is kept: lower optim.lr or optim.clip_norm, or look at those scenes"
        )


def _sent(batch: dict[str, Tensor], device: torch.device, stays: Sequence[str]) -> Batch:
    return to_floats(
        {field: x if field in stays else sent(x, device) for field, x in batch.items()}
    )
