"""The training loop: one for both stages, with no cluster in it.

It is handed `resume` (checkpoint folders, the newest first) and `report(metrics, folder)`, and runs
the same under Ray Train, torchrun, or alone. Steps, not epochs, are the budget.
"""

from __future__ import annotations

import base64
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import build_objective
from models.dspfusion.config import (
    SIZE_MULTIPLE_PX,
    DSPFusionConfig,
    Stage1Config,
    Stage2Config,
    fuser_config,
)
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from pipelines.batches import Batch, LateBatches, ShardBatches, prefetch
from pipelines.checkpoints import (
    TrainingState,
    read_config,
    read_weights,
    resume_newest,
    save_checkpoint,
)
from pipelines.dataset import read_version
from pipelines.folders import Folder
from pipelines.memory import own_peak_mib
from pipelines.previews import Pair, current_fuser, draw_preview

# Numbers by name, and at times a preview: a PNG as base64 text, which passes wherever numbers do.
Metrics = dict[str, Any]
PREVIEW = "previews"
Report = Callable[[Metrics, Path | None], None]


class OptimConfig(BaseModel):
    """AdamW and its schedule (spec 2.3). `batch_size` is a worker's; sizes in pixels.

    The rate is `lr` for `constant_share` of the steps, then falls by a cosine to `lr_min`. A step
    takes `num_accumulated` batches, one after the other, for the memory of one. `precision` bf16 is
    autocast; weights stay float32. With `ema_decay` a running average of the weights is kept, and
    stands for the model. A loss above `max_loss` stops the run as one that is not finite does.
    `late_batch_size` and `late_crop_px` hold from where the rate falls; the authors' code then takes
    3 of its 4 samples, at 256 px (spec 2.3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(gt=0)
    batch_size: int = Field(default=4, gt=0)
    crop_px: int = Field(default=224, ge=16, multiple_of=SIZE_MULTIPLE_PX)
    lr: float = Field(default=2e-4, gt=0)
    lr_min: float = Field(default=1e-6, ge=0)
    constant_share: float = Field(default=0.6, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip_norm: float = Field(default=0.01, gt=0)
    num_accumulated: int = Field(default=1, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    max_loss: float = Field(default=1e4, gt=0)
    seed: int = 100
    log_every: int = Field(default=200, gt=0)
    checkpoint_every: int = Field(default=5000, gt=0)
    late_batch_size: int | None = Field(default=None, gt=0)
    late_crop_px: int | None = Field(default=None, ge=16, multiple_of=SIZE_MULTIPLE_PX)

    @property
    def constant_steps(self) -> int:
        """Steps before the rate falls."""
        return round(self.constant_share * self.num_steps)

    @property
    def late(self) -> LateBatches | None:
        """What batches are like while the rate falls, if they are others."""
        if self.late_batch_size is None and self.late_crop_px is None:
            return None
        return LateBatches(
            from_step=self.constant_steps * self.num_accumulated,
            batch_size=self.late_batch_size or self.batch_size,
            crop_px=self.late_crop_px or self.crop_px,
        )

    @model_validator(mode="after")
    def _check_late(self) -> Self:
        if self.late_batch_size is not None and self.late_batch_size > self.batch_size:
            raise ValueError(
                f"late_batch_size is {self.late_batch_size}; it takes some of the "
                f"{self.batch_size} samples of batch_size, not more"
            )
        if self.late and self.constant_steps == self.num_steps:
            raise ValueError("late_… has no effect: constant_share leaves no late steps")
        return self


class TrainingConfig(BaseModel):
    """Everything a worker needs. `dataset` names a version, `stage1` is a checkpoint folder.

    A step is that of `num_workers`, however many there are; None means those there are. With
    `compiled` the objective is compiled by torch (a minute at the start, more for large networks).
    Every `preview_every` steps, and at the end, a preview is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Stage1Config | Stage2Config = Field(discriminator="stage")
    optim: OptimConfig
    dataset: str
    stage1: str | None = None
    preview_every: int | None = Field(default=None, gt=0)
    num_workers: int | None = Field(default=None, ge=1)
    compiled: bool = False


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


def share_of_step(optim: OptimConfig, num_workers: int, world_size: int) -> OptimConfig:
    """What each of `world_size` workers does of a step that was meant for `num_workers`.

    Together they take the same samples in the same step, in more batches or in smaller ones. Raises
    ValueError when the step cannot be shared evenly.
    """
    num_batches = num_workers * optim.num_accumulated
    if num_batches % world_size == 0:
        return optim.model_copy(update={"num_accumulated": num_batches // world_size})
    num_samples = num_batches * optim.batch_size
    if world_size % num_batches or num_samples % world_size:
        raise ValueError(
            f"{world_size} workers cannot share a step of {num_batches} batches of "
            f"{optim.batch_size} samples evenly; take a number that divides either"
        )
    if optim.late_batch_size is not None:
        raise ValueError(
            f"{world_size} workers would split batches of which late_batch_size takes "
            f"{optim.late_batch_size} samples; take a number that divides {num_batches}, or unset it"
        )
    return optim.model_copy(update={"num_accumulated": 1, "batch_size": num_samples // world_size})


def read_stage1(config: TrainingConfig) -> dict[str, Tensor] | None:
    """Read the Stage I weights that are gone on from; a Stage I run can do without.

    Raises ValueError when they are missing or do not fit.
    """
    if config.stage1 is None:
        if isinstance(config.objective, Stage1Config):
            return None
        raise ValueError("stage2 starts from a Stage I checkpoint; set stage1=FOLDER or runs:/ID")
    there: Any = read_config(Path(config.stage1))["objective"]
    if there["stage"] != "stage1":
        raise ValueError(f"{config.stage1}: is a {there['stage']} checkpoint, not stage1")
    check_same_networks(DSPFusionConfig.model_validate(there["model"]), config.objective.model)
    return read_weights(Path(config.stage1))


def make_objective(
    config: TrainingConfig, stage1: dict[str, Tensor] | None = None
) -> Stage1 | Stage2:
    """Build the objective with its first weights: seeded, or those of the Stage I checkpoint.

    Those are read from the folder that `config` names, unless they are handed in.
    """
    stage1 = stage1 or read_stage1(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optim.seed)
        objective = build_objective(config.objective)
    if stage1 is not None:
        if isinstance(objective, Stage2):
            objective.load_stage1(stage1)
        else:
            objective.load_state_dict(stage1)
    return objective


def check_same_networks(stage1: DSPFusionConfig, stage2: DSPFusionConfig) -> None:
    """Raise ValueError naming the settings in which the two stages' networks differ.

    The denoiser and its chain are Stage II's own.
    """
    there, here = dict(stage1), dict(stage2)
    differing = sorted(key for key in here if key not in _STAGE2_ALONE and there[key] != here[key])
    if differing:
        raise ValueError(
            "the Stage I checkpoint was trained with other networks: "
            + ", ".join(f"{key}={there[key]!r} there, {here[key]!r} here" for key in differing)
        )


_STAGE2_ALONE = frozenset(
    {
        "prior",
        "denoiser_predicts",
        "denoiser_width",
        "num_denoiser_blocks",
        "num_steps",
        "beta_start",
        "beta_end",
        "noise_seed",
        "stretch",
    }
)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Rate of the 0-based `step`: constant, then cosine (spec 2.3, the same shape at any budget)."""
    if step < config.constant_steps:
        return config.lr
    progress = (step - config.constant_steps) / max(config.num_steps - config.constant_steps, 1)
    return config.lr_min + 0.5 * (config.lr - config.lr_min) * (1 + math.cos(math.pi * progress))


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
    shares = [share for share, _ in objective.parameter_groups()]
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
            if due:
                # Apart, and first: whoever is killed between keeping a checkpoint and logging what came
                # with it would leave a gap; and all that comes with a checkpoint is kept with it, and
                # written again with the next. A step that is reported again is not logged again.
                report(metrics | preview, None)
                preview = {}
                check_replicas(objective)
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
                folder = Path(scratch) if due and save else None
                if folder:
                    save_checkpoint(folder, state, step=done, config_json=_as_json(config))
                report(metrics | preview, folder)
            window.await_batch()


def _shows_preview(config: TrainingConfig, done: int) -> bool:
    every = config.preview_every
    return every is not None and (done % every == 0 or done == config.optim.num_steps)


def _preview(config: TrainingConfig, state: TrainingState, pairs: Sequence[Pair]) -> str:
    model = state.model if state.averaged is None else state.averaged.module
    fuser = current_fuser(fuser_config(config.objective), model.state_dict())
    return base64.b64encode(draw_preview(fuser, pairs)).decode()


def start_state(objective: Stage1 | Stage2, optim: OptimConfig) -> TrainingState:
    """The state before the first step; frozen parameters are not optimised."""
    groups = [{"params": parameters} for _, parameters in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )
    if optim.ema_decay is None:
        return TrainingState(objective, optimizer, None)
    average = get_ema_multi_avg_fn(optim.ema_decay)
    return TrainingState(objective, optimizer, AveragedModel(objective, multi_avg_fn=average))


def train_step(
    replica: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    rates: Sequence[float],
    clip_norm: float,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> dict[str, Tensor]:
    """Forward and backward over all batches, clip, step at one of `rates` for each parameter group.

    Returns the mean of the detached loss terms and the gradient's norm before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for place, batch in enumerate(batches, start=1):
        # Replicas meet once a step, in the last backward pass.
        with nullcontext() if place == len(batches) else _alone(replica):
            terms = _forward(replica, batch, precision)
            (terms["loss"] / len(batches)).backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / len(batches)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.step()
    return sums | {"grad_norm": norm}


def _forward(replica: nn.Module, batch: Batch, precision: str) -> dict[str, Tensor]:
    device = next(replica.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        terms: dict[str, Tensor] = replica(batch)
    return terms


def _alone(replica: nn.Module) -> AbstractContextManager[None]:
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()


def check_replicas(objective: nn.Module) -> None:
    """Raise ValueError when the ranks' parameters are not the same bits."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    sums = [parameter.detach().double().sum() for parameter in objective.parameters()]
    mine = torch.stack(sums)  # one number a parameter
    all_ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(all_ranks, mine)
    apart = [rank for rank, sums in enumerate(all_ranks) if not torch.equal(sums, all_ranks[0])]
    if apart:
        raise ValueError(
            f"the weights of ranks {apart} are not those of rank 0; the last checkpoint is kept: "
            "start again from it, and look for what differs between the nodes"
        )


class Window:
    """Means of the loss terms, and where the time went, over the steps since the last report."""

    def __init__(self) -> None:
        self._num_steps, self._num_samples, self._wait_s = 0, 0, 0.0
        self._sums: dict[str, Tensor] = {}
        self._opened = time.perf_counter()
        self.await_batch()

    def await_batch(self) -> None:
        """Note that nothing else is done from now on until the next batch is here."""
        self._idle_since = time.perf_counter()

    def batch_ready(self) -> None:
        """Note that the batch is here: the time since it was awaited was spent waiting for it."""
        self._wait_s += time.perf_counter() - self._idle_since

    def add(self, terms: dict[str, Tensor], *, num_samples: int) -> None:
        """Add one step's terms; they stay on the device, so that nothing waits for it."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._num_steps += 1
        self._num_samples += num_samples
        self.await_batch()

    def means(self) -> Metrics:
        """Return the mean of every term, samples per second and the share of time without a batch.

        The time that the report at the window's start took counts, but not as waiting for a batch.
        """
        seconds = time.perf_counter() - self._opened
        return {name: float(total) / self._num_steps for name, total in self._sums.items()} | {
            "samples_per_s": self._num_samples / seconds,
            "data_wait_share": self._wait_s / seconds,
        }


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """The most that this process held so far: resident, and allocated on a CUDA device if it has one."""
    peaks = {"host_peak_mib": own_peak_mib()}
    if device.type == "cuda":
        peaks["cuda_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks


def _check_loss(loss: float, optim: OptimConfig, step: int, batches: ShardBatches) -> None:
    if not loss <= optim.max_loss:  # nor is NaN
        parts = range(step * optim.num_accumulated, (step + 1) * optim.num_accumulated)
        scenes = [scene for part in parts for scene in batches.scenes_at(part)]
        raise ValueError(
            f"the loss is {loss} at step {step + 1}; the batch held {', '.join(scenes)}; "
            "the last checkpoint is kept: lower optim.lr or optim.clip_norm, or look at those scenes"
        )


def _as_json(config: TrainingConfig) -> str:
    return config.model_dump_json(indent=1)


def _distributed(objective: nn.Module) -> nn.Module:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return objective
    return DistributedDataParallel(objective)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {field: value.to(device, non_blocking=True) for field, value in batch.items()}
