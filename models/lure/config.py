"""Configurations of the LURE-style reconstruction: the networks, the two stages, and presets.

All sizes and weights are choices of the reconstruction (spec 3 and 4); none is known of the authors'.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)

# Three halvings of the size.
SIZE_MULTIPLE_PX = 8
MIN_SIZE_PX = 16
# Numbers of a prompt: those of CLIP ViT-B/32.
TEXT_WIDTH = 512

Width = Annotated[int, Field(gt=0, le=2048)]
Depth = Annotated[int, Field(gt=0, le=64)]


class LUREConfig(BaseModel, frozen=True, extra="forbid"):
    """Widths and depths of encoders, decoders and fusion, level 1 first.

    `inner_residual`, `guidance` and `norm` are for ablations (spec 7, v): attention without its inner
    residual; prompts that scale and shift each channel, which is FiLM; and layers that are normalised
    after they are added. `fusion` "mean" takes the mean of the latents and the visible camera's
    restoration decoder: the fuser after Stage I, which has no fusion modules.
    """

    system: Literal["lure"] = "lure"
    width: Width = 32
    num_blocks: tuple[Depth, Depth, Depth, Depth] = (2, 2, 4, 4)
    num_heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 2, 4, 8)
    num_refinement_blocks: Depth = 2
    ffn_expansion: float = Field(2.66, ge=1, le=16)
    inner_residual: bool = True
    guidance: Literal["attention", "film"] = "attention"
    norm: Literal["pre", "post"] = "pre"
    fusion: Literal["learned", "mean"] = "learned"

    @property
    def level_widths(self) -> tuple[int, int, int, int]:
        """Channels of the four levels."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)

    @model_validator(mode="after")
    def _check_divisions(self) -> Self:
        if self.width % 2:
            raise ValueError(f"width is {self.width}; it must be even")
        levels = zip(self.level_widths, self.num_heads, strict=True)
        for level, (width, heads) in enumerate(levels, start=1):
            if width % heads:
                raise ValueError(
                    f"num_heads: level {level} has {width} channels, which {heads} heads "
                    "do not divide"
                )
        return self


class TextConfig(BaseModel, frozen=True, extra="forbid"):
    """Where the vectors of the prompts come from; once trained, they lie in the checkpoint.

    "hash": numbers without meaning, for tests and trial runs. "table": an npz of `text.write_table`
    at `path`, whose `digest` is given too. "clip": the folder `path` of a CLIP ViT-B/32 text encoder.
    """

    source: Literal["hash", "table", "clip"] = "hash"
    path: Path | None = None
    digest: str | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        needed = {"hash": (False, False), "table": (True, True), "clip": (True, False)}
        for name, need in zip(("path", "digest"), needed[self.source], strict=True):
            if (getattr(self, name) is not None) != need:
                verb = "needs" if need else "takes no"
                raise ValueError(f"text.source {self.source!r} {verb} text.{name}")
        return self


class Stage1Config(BaseModel, frozen=True, extra="forbid"):
    """Stage I: one latent space for all degradations, from single pictures (spec 4.1).

    `ramp_steps` is over how many steps the unified loss comes in: a tenth of the training.
    `pseudo_noise_level` is the noise of the clean pass in grey levels; 0 leaves the picture as it is.
    """

    system: Literal["lure"] = "lure"
    stage: Literal["stage1"] = "stage1"
    model: LUREConfig = LUREConfig()
    text: TextConfig = TextConfig()
    pseudo_weight: NonNegativeFloat = 0.5
    ssim_weight: NonNegativeFloat = 0.2
    unified_weight: NonNegativeFloat = 1
    statistics_weight: NonNegativeFloat = 0.1
    ramp_steps: PositiveInt = 20_000
    teacher_decay: float = Field(0.999, ge=0, lt=1)
    statistics_decay: float = Field(0.99, ge=0, lt=1)
    pseudo_noise_level: NonNegativeFloat = 0

    @model_validator(mode="after")
    def _check_fusion(self) -> Self:
        if self.model.fusion != "learned":
            raise ValueError("model.fusion is for fusers: Stage I trains no fusion; leave it out")
        return self


class FusionWeights(BaseModel, frozen=True, extra="forbid"):
    """Weights of the fusion loss's terms (spec 4.2: 15 · 0.75 for the gradient)."""

    intensity_max: NonNegativeFloat = 15
    gradient: NonNegativeFloat = 11.25
    ssim: NonNegativeFloat = 2
    color: NonNegativeFloat = 20


class Stage2Config(BaseModel, frozen=True, extra="forbid"):
    """Stage II: fusion in the latent space of frozen encoders, from clean pairs (spec 4.2).

    `mix_degraded` is the share of pairs that are degraded and carry their own prompts.
    """

    system: Literal["lure"] = "lure"
    stage: Literal["stage2"] = "stage2"
    model: LUREConfig = LUREConfig()
    fusion_weights: FusionWeights = FusionWeights()
    mix_degraded: float = Field(0, ge=0, le=0.5)

    @model_validator(mode="after")
    def _check_fusion(self) -> Self:
        if self.model.fusion != "learned":
            raise ValueError(
                f"model.fusion is {self.model.fusion!r}, but Stage II trains the fusion modules; "
                "set it to 'learned'"
            )
        return self


def fuser_config(config: Stage1Config | Stage2Config) -> LUREConfig:
    """Return the configuration of the fuser that a stage's weights fit."""
    match config:
        case Stage1Config():
            return config.model.model_copy(update={"fusion": "mean"})
        case Stage2Config():
            return config.model


def full() -> LUREConfig:
    """The reconstruction's size: 15.1 M parameters in Stage I."""
    return LUREConfig()


def small() -> LUREConfig:
    """A model for CPU training, of three eighths of the widths and one block a level."""
    return LUREConfig(
        width=12, num_blocks=(1, 1, 1, 1), num_heads=(1, 1, 2, 4), num_refinement_blocks=1
    )


def tiny() -> LUREConfig:
    """The smallest model with every part, for tests."""
    return LUREConfig(
        width=4, num_blocks=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), num_refinement_blocks=1
    )
