"""What a training is: objective, data, optimiser, schedule; and how a step is shared by workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_validator,
)

from models import read_stage_config, system_of
from models.schedules import constant_then_cosine, multi_step
from models.system import Stage
from pipelines.batches.stream import LateBatches
from pipelines.store.seeding import Seed

Decay = Annotated[float, Field(ge=0, lt=1)]
# Of a batch of one worker: 3 GiB of float32 a colour field. Far above any batch that was trained.
_MAX_BATCH_PX = 2**28
_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CosineSchedule(BaseModel):
    """The rate is constant, then falls by a cosine (DSPFusion spec 2.3)."""

    model_config = _FROZEN

    kind: Literal["cosine"] = "cosine"
    constant_share: float = Field(default=0.6, ge=0, le=1)
    """Share of the steps before the rate falls."""
    lr_min: float = Field(default=1e-6, ge=0)
    """Where the rate ends."""

    def falls_at(self, num_steps: int) -> int:
        """The step at which the rate begins to fall."""
        return round(self.constant_share * num_steps)

    def rate(self, step: int, *, num_steps: int, lr: float) -> float:
        """The rate of the 0-based `step`."""
        constant_steps = self.falls_at(num_steps)
        return constant_then_cosine(
            step, num_steps=num_steps, constant_steps=constant_steps, rate=lr, least=self.lr_min
        )


class MultiStepSchedule(BaseModel):
    """The rate is multiplied at each milestone."""

    model_config = _FROZEN

    kind: Literal["multi_step"] = "multi_step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=1)
    """Shares of the steps at which the rate is multiplied, in rising order."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """By what it is multiplied."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)}: give them in rising order")
        return self

    def falls_at(self, num_steps: int) -> int:
        """The step at which the rate begins to fall."""
        return round(self.milestones[0] * num_steps)

    def rate(self, step: int, *, num_steps: int, lr: float) -> float:
        """The rate of the 0-based `step`."""
        steps = [round(share * num_steps) for share in self.milestones]
        return multi_step(step, milestones=steps, factor=self.factor, rate=lr)


class OptimConfig(BaseModel):
    """The optimiser, its schedule, and what a step is."""

    model_config = _FROZEN

    num_steps: int = Field(gt=0, le=10**9)
    """The budget: steps of the optimiser."""
    batch_size: int = Field(default=4, gt=0, le=4096)
    """Samples of a batch of one worker."""
    crop_px: int = Field(default=224, ge=16, le=8192)
    """Side of the crops, a multiple of what the system's networks take."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW or Adam, torch's."""
    lr: float = Field(default=2e-4, gt=0)
    """Learning rate before it falls."""
    schedule: CosineSchedule | MultiStepSchedule = Field(CosineSchedule(), discriminator="kind")
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the optimiser's two averages."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the optimiser's denominator."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled with AdamW, a term of the gradient with Adam."""
    clip_norm: float = Field(default=0.01, gt=0)
    """Largest norm of the gradient."""
    num_accumulated: int = Field(default=1, ge=1, le=4096)
    """Batches of a step, one after the other, for the memory of one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast; weights stay float32."""
    recompute_blocks: bool = False
    """Make the blocks' maps again in the backward pass: less memory, more time; for GPUs."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep a running average of the weights, which then stands for the model."""
    max_loss: float = Field(default=1e4, gt=0)
    """A loss above it stops the run, as one that is not finite does."""
    seed: Seed = 100
    """Seed of first weights, order, crops and dropout."""
    window_shards: int = Field(default=2, ge=1, le=64)
    """Shards over which a lane is shuffled at a time; more mix better, and take more files and cache."""
    log_every: int = Field(default=200, gt=0)
    """Steps between two reports."""
    checkpoint_every: int = Field(default=5000, gt=0)
    """Steps between two checkpoints."""
    late_batch_size: int | None = Field(default=None, gt=0)
    """Samples of a batch from where the rate falls (the authors of DSPFusion take 3 of 4)."""
    late_crop_px: int | None = Field(default=None, ge=16, le=8192)
    """Side of the crops from where the rate falls."""

    @property
    def constant_steps(self) -> int:
        """Steps before the rate falls."""
        return self.schedule.falls_at(self.num_steps)

    @property
    def late(self) -> LateBatches | None:
        """What batches are like while the rate falls, if they are others."""
        if self.late_batch_size is None and self.late_crop_px is None:
            return None
        return LateBatches(
            from_step=self.constant_steps * self.num_accumulated,
            batch_size=self.late_batch_size or self.batch_size,
            crop_px=self.late_crop_px or self.crop_px,
            num_accumulated=self.num_accumulated,
        )

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        num_px = self.batch_size * max(self.crop_px, self.late_crop_px or 0) ** 2
        if num_px > _MAX_BATCH_PX:
            raise ValueError(
                f"batch_size {self.batch_size} of crop_px {self.crop_px} is a batch of {num_px} "
                f"pixels, above {_MAX_BATCH_PX}; lower one of them"
            )
        return self

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


class ValidationConfig(BaseModel):
    """The model is measured on scenes that it does not see, and the best weights are kept.

    On degraded pairs of the index that the dataset was made of (its split val, else test), the same each
    time. It changes nothing of the training.
    """

    model_config = _FROZEN

    every: int = Field(gt=0)
    """Steps between two validations; there is one at the end, too."""
    num_scenes: int = Field(default=8, ge=1, le=1000)
    """How many of the unseen scenes, a window of each."""
    best_by: Literal["SSIM_target", "PSNR_target"] = "SSIM_target"
    """The metric by which a validation is better than another."""
    registers: Literal["best", "last"] = "last"
    """The weights that stand for the model: registered, and started from by other trainings."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations in a row without a better one."""

    @property
    def decides(self) -> bool:
        """Whether a training with it has other weights as its result than one without."""
        return self.registers == "best" or self.patience is not None


# Settings that do not change the weights: two runs that differ in these only are the same run.
_DECIDES_NOTHING: Any = {
    "dataset": True,  # the version's digest counts, not its name
    "init_from": True,  # the weights' digest counts, not their place
    "use_gpu": True,
    "cpus_per_worker": True,
    "preview_every": True,
    "compiled": True,
    "register_as": True,
    "optim": {"log_every", "checkpoint_every", "recompute_blocks", "max_loss"},
}


class TrainingConfig(BaseModel):
    """A training, complete: what a recipe returns, and what a checkpoint keeps as config.json."""

    model_config = _FROZEN

    objective: Annotated[SerializeAsAny[BaseModel], BeforeValidator(read_stage_config)]
    """Stage, networks and losses of a system."""
    optim: OptimConfig
    dataset: str | None = None
    """A dataset version, or a dataset recipe's name for its newest version."""
    init_from: str | None = None
    """Initial weights: runs:/ID, or the folder of a checkpoint."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, such as "fusion.encoders.*"."""
    num_workers: int = Field(default=1, ge=1, le=4096)
    """Workers that share a step; --workers shares the same steps among another number."""
    use_gpu: bool = False
    """Ask Ray for a GPU a worker."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Cores that Ray gives a worker; as many threads decode."""
    register_as: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Register the model under this name when the run has finished."""
    preview_every: int | None = Field(default=None, gt=0)
    """Draw fused validation pictures every so many steps, and at the end."""
    validation: ValidationConfig | None = None
    """Validation on unseen scenes; null for none, {"every": 250} for the defaults of the others."""
    compiled: bool = False
    """Compile the networks first: minutes, for long trainings of large ones."""

    @property
    def stage(self) -> Stage:
        """What the system declares of the stage."""
        return system_of(self.objective).stage(str(dict(self.objective)["stage"]))

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        system = system_of(self.objective)
        for name in ("crop_px", "late_crop_px"):
            crop_px = getattr(self.optim, name)
            if crop_px is not None and (crop_px % system.multiple_px or crop_px < system.least_px):
                raise ValueError(
                    f"optim.{name} is {crop_px}; {system.name} takes multiples of "
                    f"{system.multiple_px} px, {system.least_px} at least"
                )
        return self

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        gpu = {"GPU": 1.0} if self.use_gpu else {}
        return {"CPU": float(self.cpus_per_worker), **gpu}

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights, together with the data and the initial weights."""
        idle = {} if self.validation and self.validation.decides else {"validation": True}
        return self.model_dump(mode="json", exclude=_DECIDES_NOTHING | idle)


def share_of_step(optim: OptimConfig, num_workers: int, world_size: int) -> OptimConfig:
    """Each of `world_size` workers' share of a step of `num_workers`.

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
