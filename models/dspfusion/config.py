"""Configurations of DSPFusion: the networks, the two training stages, and presets.

The defaults are the full-size model of the released weights (spec 1) and the loss weights of the
authors' training code (spec 2).
"""

from typing import Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

# Three halvings of the size: inputs of the padded fuser are multiples of this.
SIZE_MULTIPLE_PX = 8


class DSPFusionConfig(BaseModel, frozen=True, extra="forbid"):
    """Widths, depths and constants of the four networks.

    `prior` says which semantic prior the fuser uses: the one restored by diffusion, or the one of
    the degraded images (a Stage I model, which has no denoiser).
    """

    system: Literal["dspfusion"] = "dspfusion"
    prior: Literal["diffusion", "low_quality"] = "diffusion"

    # Fusion network, level 1 first; the channels double from level to level.
    width: PositiveInt = 32
    num_blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 4, 4)
    num_heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 2, 2)
    num_refinement_blocks: PositiveInt = 1
    ffn_expansion: float = Field(2.66, ge=1)
    three_heads: bool = False

    # Priors: a grid of tokens at level 1, fewer tokens below.
    prior_grid: int = Field(4, ge=2)
    num_deep_tokens: PositiveInt = 4
    semantic_width: PositiveInt = 64
    num_semantic_blocks: PositiveInt = 6
    degradation_width: PositiveInt = 32
    num_degradation_blocks: PositiveInt = 4

    # Diffusion of the semantic prior.
    denoiser_width: PositiveInt = 512
    num_denoiser_blocks: PositiveInt = 4
    num_steps: int = Field(10, ge=2)
    beta_start: float = Field(0.1, gt=0, lt=1)
    beta_end: float = Field(0.99, gt=0, lt=1)
    noise_seed: int = Field(0, ge=0)

    @property
    def num_tokens(self) -> int:
        """Tokens of a prior at level 1."""
        return self.prior_grid**2

    @property
    def semantic_prior_width(self) -> int:
        """Width of the semantic prior's tokens."""
        return 4 * self.semantic_width

    @property
    def degradation_prior_width(self) -> int:
        """Width of the degradation prior's tokens."""
        return 4 * self.degradation_width

    @property
    def level_widths(self) -> tuple[int, int, int, int]:
        """Channels of the encoder's four levels."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)

    @property
    def level_tokens(self) -> tuple[int, int, int, int]:
        """Prior tokens at the four levels."""
        deep = self.num_deep_tokens
        return (self.num_tokens, deep, deep, deep)

    @model_validator(mode="after")
    def _check_divisions(self) -> Self:
        for level, (width, heads) in enumerate(
            zip(self.level_widths, self.num_heads, strict=True), start=1
        ):
            if width % heads:
                raise ValueError(
                    f"num_heads: level {level} has {width} channels, which {heads} heads "
                    "do not divide"
                )
        for name in ("width", "semantic_width", "degradation_width"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be even")
        if self.beta_end < self.beta_start:
            raise ValueError(
                f"beta_end {self.beta_end} is below beta_start {self.beta_start}; "
                "noise grows with the timestep"
            )
        return self


class FusionWeights(BaseModel, frozen=True, extra="forbid"):
    """Weights of the fusion loss's terms (spec 2.1)."""

    intensity_max: NonNegativeFloat = 15
    intensity_consistency: NonNegativeFloat = 1
    color: NonNegativeFloat = 20
    gradient: NonNegativeFloat = 10
    ssim: NonNegativeFloat = 2

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not any(dict(self).values()):
            raise ValueError("every fusion weight is 0; nothing would train the fusion network")
        return self


class Stage1Config(BaseModel, frozen=True, extra="forbid"):
    """Stage I: priors and fusion network together, fusion and contrastive losses (spec 2.1).

    `contrastive_weight` is positive: the type head learns from this loss alone, and without it
    the groups of the batch would be decoded for nothing.
    """

    stage: Literal["stage1"] = "stage1"
    model: DSPFusionConfig = DSPFusionConfig()
    fusion_weights: FusionWeights = FusionWeights()
    contrastive_weight: PositiveFloat = 1
    contrastive_temperature: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.model.three_heads:
            raise ValueError(
                "model.three_heads is for imported weights: no loss is known that trains the "
                "visible and infrared heads; set it to false"
            )
        return self


class Stage2Config(BaseModel, frozen=True, extra="forbid"):
    """Stage II: the denoiser alone, fusion and prior losses (spec 2.2)."""

    stage: Literal["stage2"] = "stage2"
    model: DSPFusionConfig = DSPFusionConfig()
    fusion_weights: FusionWeights = FusionWeights()
    diffusion_weight: PositiveFloat = 10

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if self.model.prior != "diffusion":
            raise ValueError(
                f"model.prior is {self.model.prior!r}, but Stage II trains the denoiser; "
                "set it to 'diffusion'"
            )
        return self


def fuser_config(config: Stage1Config | Stage2Config) -> DSPFusionConfig:
    """Return the configuration of the fuser that a stage's weights fit (Stage I: no denoiser)."""
    match config:
        case Stage1Config():
            return config.model.model_copy(update={"prior": "low_quality"})
        case Stage2Config():
            return config.model


def full() -> DSPFusionConfig:
    """The released model: 14.0 M parameters."""
    return DSPFusionConfig()


def small() -> DSPFusionConfig:
    """A model for CPU training: 0.53 M parameters, 0.3 s for a Stage I step of 4 crops of 64."""
    return DSPFusionConfig(
        width=8,
        num_blocks=(1, 1, 1, 1),
        semantic_width=24,
        num_semantic_blocks=2,
        degradation_width=12,
        num_degradation_blocks=1,
        denoiser_width=96,
        num_denoiser_blocks=2,
    )


def tiny() -> DSPFusionConfig:
    """The smallest model with every part, for tests."""
    return DSPFusionConfig(
        width=4,
        num_blocks=(1, 1, 1, 1),
        semantic_width=4,
        num_semantic_blocks=1,
        degradation_width=4,
        num_degradation_blocks=1,
        denoiser_width=16,
        num_denoiser_blocks=1,
        num_steps=3,
    )
