"""What a training is told: the optimiser's settings, the schedule, and how a step is shared."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.dspfusion.config import SIZE_MULTIPLE_PX, Stage1Config, Stage2Config
from pipelines.batches.stream import LateBatches


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
    `compiled` the objective is compiled by torch (minutes at the start; on a CPU 12 for tiny networks).
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


def learning_rate(step: int, config: OptimConfig) -> float:
    """Rate of the 0-based `step`: constant, then cosine (spec 2.3, the same shape at any budget)."""
    if step < config.constant_steps:
        return config.lr
    progress = (step - config.constant_steps) / max(config.num_steps - config.constant_steps, 1)
    return config.lr_min + 0.5 * (config.lr - config.lr_min) * (1 + math.cos(math.pi * progress))
