"""Configurations of DSPFusion: the networks, the two training stages, and presets.

The defaults are the full-size model of the released weights (spec 1) and the loss weights of the
authors' training code (spec 2). Where the paper differs and is specific enough, a setting
chooses (README, "Paper and code").
"""

from typing import Annotated, Literal, Self

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

# "brighter_source": the whole pixel of the source with the larger channel mean (code).
# "element_maximum": the larger value in each channel (paper).
ContentTarget = Literal["brighter_source", "element_maximum"]

# Far above any network that was trained, and low enough that a configuration from elsewhere can be
# looked at: what it takes in memory grows with the products of these.
Width = Annotated[int, Field(gt=0, le=2048)]
Depth = Annotated[int, Field(gt=0, le=64)]
_MAX_NOISE_VALUES = 2**24


class DSPFusionConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Widths, depths and constants of the four networks.

    `prior` names the semantic prior that the fuser uses: the one restored by diffusion, or the one of
    the degraded images (a Stage I model, which has no denoiser). `degradation_prior` and
    `semantic_prior` set to false cut a prior off, for ablations: neither its encoder nor what it
    guides is built (README, "Ablations"). Without a semantic prior there is none to restore.
    """

    system: Literal["dspfusion"] = "dspfusion"
    prior: Literal["diffusion", "low_quality"] = "diffusion"
    """The semantic prior: restored by diffusion, or that of the degraded pair."""
    degradation_prior: bool = True
    """Build the degradation encoder and what it guides; false for an ablation."""
    semantic_prior: bool = True
    """Build the semantic encoder and what it guides; false for an ablation."""

    fold: Literal[1, 2, 4] = 1
    """Fold squares of so many pixels a side into channels before level 1, for speed; 1 in the paper."""
    width: Width = 32
    """Channels of level 1; they double from level to level."""
    num_blocks: tuple[Depth, Depth, Depth, Depth] = (2, 2, 4, 4)
    """Transformer blocks of each level."""
    num_heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 2, 2)
    """Attention heads of each level."""
    num_refinement_blocks: int = Field(1, ge=0, le=64)
    """Blocks before the output."""
    ffn_expansion: float = Field(2.66, ge=1, le=16)
    """Hidden width of a feed-forward over its width."""
    three_heads: bool = False
    """Also heads for both restored sources; for imported weights."""
    joins_sources: bool = False
    """Restore the sources, take the brighter pixel, and blend it with the drawn one; not in the paper."""

    dpmm_convolution: bool = True
    """3×3 convolution after DPMM's affine map (code, not paper)."""
    fusion_convolution: bool = True
    """1×1 convolution after the fusion module's sum (code, not paper)."""
    level1_reduction: bool = False
    """1×1 convolution before the last decoder (paper, not code)."""

    prior_grid: int = Field(4, ge=2, le=64)
    """Side of the grid of prior tokens at level 1."""
    num_deep_tokens: Width = 4
    """Prior tokens at the levels below."""
    semantic_width: Width = 64
    """Width of the semantic encoder."""
    num_semantic_blocks: Depth = 6
    """Residual blocks of the semantic encoder."""
    degradation_width: Width = 32
    """Width of the degradation encoder."""
    num_degradation_blocks: Depth = 4
    """Residual blocks of the degradation encoder."""

    denoiser_predicts: Literal["x0", "noise"] = "x0"
    """x0 with the posterior mean (code), or the noise with ancestral sampling (paper)."""
    prior_blend: Literal["restored", "learned"] = "restored"
    """The restored prior as it is (paper), or blended with the pair's own by a learned share."""
    denoiser_width: int = Field(512, gt=0, le=16384)
    """Hidden width of the denoiser."""
    num_denoiser_blocks: Depth = 4
    """Mixer blocks of the denoiser."""
    num_steps: int = Field(10, ge=2, le=1000)
    """Sampling steps T of the diffusion."""
    beta_start: float = Field(0.1, gt=0, lt=1)
    """First beta of the noise schedule, linear in its square root."""
    beta_end: float = Field(0.99, gt=0, lt=1)
    """Last beta of the noise schedule."""
    noise_seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the one fixed noise at inference."""

    stretch: bool = False
    """Stretch each result by its own extremes, as the authors save theirs."""

    @property
    def num_tokens(self) -> int:
        """Tokens of a prior at level 1."""
        return self.prior_grid**2

    @property
    def semantic_prior_width(self) -> int:
        """Width of the semantic prior's tokens, 0 without one."""
        return 4 * self.semantic_width if self.semantic_prior else 0

    @property
    def degradation_prior_width(self) -> int:
        """Width of the degradation prior's tokens, 0 without one."""
        return 4 * self.degradation_width if self.degradation_prior else 0

    @property
    def restores_prior(self) -> bool:
        """Whether there is a denoiser, which restores the semantic prior."""
        return self.prior == "diffusion" and self.semantic_prior

    @property
    def level_widths(self) -> tuple[int, int, int, int]:
        """Channels of the encoder's four levels."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)

    @property
    def head_width(self) -> int:
        """Channels of the last decoder and of the heads."""
        return self.width if self.level1_reduction else 2 * self.width

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
        num_values = self.num_steps * self.num_tokens * self.semantic_prior_width
        if num_values > _MAX_NOISE_VALUES:
            raise ValueError(
                f"num_steps {self.num_steps} of prior_grid² {self.num_tokens} tokens of "
                f"{self.semantic_prior_width} values are {num_values} values of noise, above "
                f"{_MAX_NOISE_VALUES}; lower one of them"
            )
        if self.fold > 1 and self.three_heads:
            raise ValueError(
                f"fold is {self.fold}, but imported weights, which have three heads, fold nothing; "
                "set it to 1"
            )
        if self.joins_sources and self.three_heads:
            raise ValueError(
                "joins_sources is true, but imported weights, which have three heads, draw the fused "
                "picture; set it to false"
            )
        if self.beta_end < self.beta_start:
            raise ValueError(
                f"beta_end {self.beta_end} is below beta_start {self.beta_start}; "
                "noise grows with the timestep"
            )
        for name, usual in (("denoiser_predicts", "x0"), ("prior_blend", "restored")):
            if getattr(self, name) != usual and not self.restores_prior:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but with prior 'low_quality' or without a "
                    "semantic prior there is no denoiser; leave it out"
                )
        return self


class FusionWeights(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Weights of the fusion loss's terms (spec 2.1)."""

    intensity_max: NonNegativeFloat = 15
    """Distance to the brighter source."""
    intensity_consistency: NonNegativeFloat = 1
    """Distance of the luma to both sources."""
    color: NonNegativeFloat = 20
    """Distance of the chroma to the visible source."""
    gradient: NonNegativeFloat = 10
    """Distance to the larger of the sources' gradients."""
    ssim: NonNegativeFloat = 2
    """Dissimilarity (1 - SSIM) to both sources."""

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not any(dict(self).values()):
            raise ValueError("every fusion weight is 0; nothing would train the fusion network")
        return self

    def check_target(self, content_target: ContentTarget) -> None:
        """Raise ValueError for a target that no term reads."""
        if content_target != "brighter_source" and not self.intensity_max:
            raise ValueError(
                f"content_target is {content_target!r}, but fusion_weights.intensity_max is 0; "
                "leave content_target out or give the term a weight"
            )


_OF_THE_DEGRADATION_PRIOR = (
    "contrastive_weight",
    "contrastive_temperature",
    "positive_in_denominator",
    "degradation_start",
    "degradation_rate",
)


class Stage1Config(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Stage I: priors and fusion network together, fusion and contrastive losses (spec 2.1).

    `contrastive_weight` is positive: the type head learns from this loss alone, and without it
    the groups of the batch would be decoded for nothing. `positive_in_denominator` is false in the
    paper's contrastive loss. `degradation_start` chooses the first weights of the degradation encoder
    and `degradation_rate` is its share of the learning rate: short runs need other ones than the
    published (README, "Results"). Without a degradation prior there is none of all that.
    """

    system: Literal["dspfusion"] = "dspfusion"
    stage: Literal["stage1"] = "stage1"
    model: DSPFusionConfig = DSPFusionConfig()
    """The networks."""
    fusion_weights: FusionWeights = FusionWeights()
    """Weights of the fusion loss's terms."""
    content_target: ContentTarget = "brighter_source"
    """Target of the content loss: the brighter pixel (code), or the larger value a channel (paper)."""
    contrastive_weight: PositiveFloat = 1
    """Weight of the contrastive loss."""
    contrastive_temperature: PositiveFloat = 0.1
    """Temperature of the contrastive loss."""
    positive_in_denominator: bool = True
    """Whether the positive stands in the denominator, too (code), or not (paper)."""
    degradation_start: Literal["torch", "contrast"] = "torch"
    """First weights of the degradation encoder."""
    degradation_rate: PositiveFloat = 1
    """The degradation encoder's share of the learning rate."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.model.three_heads:
            raise ValueError(
                "model.three_heads is for imported weights: no loss is known that trains the "
                "visible and infrared heads; set it to false"
            )
        self.fusion_weights.check_target(self.content_target)
        return self

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        for name in _OF_THE_DEGRADATION_PRIOR:
            usual = Stage1Config.model_fields[name].default
            if not self.model.degradation_prior and getattr(self, name) != usual:
                raise ValueError(
                    f"{name} is set, but model.degradation_prior is false, so that there is "
                    "nothing that would read it; leave it out"
                )
        return self


class Stage2Config(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Stage II: the denoiser alone, fusion and prior losses (spec 2.2).

    Without `fusion_weights` (None) the prior's loss is the only one, and the fusion network is not run:
    a step of the small model then takes a thirtieth of the time (README, "Results").
    """

    system: Literal["dspfusion"] = "dspfusion"
    stage: Literal["stage2"] = "stage2"
    model: DSPFusionConfig = DSPFusionConfig()
    """The networks."""
    fusion_weights: FusionWeights | None = FusionWeights()
    """Weights of the fusion loss's terms; null to train by the prior's loss alone."""
    content_target: ContentTarget = "brighter_source"
    """Target of the content loss: the brighter pixel (code), or the larger value a channel (paper)."""
    diffusion_weight: PositiveFloat = 10
    """Weight of the prior's distance."""
    lightened_share: float = Field(0, ge=0, le=1)
    """Share of the pairs that are degraded less than they come, by a random part of it; 0 in the paper."""

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if self.model.prior != "diffusion":
            raise ValueError(
                f"model.prior is {self.model.prior!r}, but Stage II trains the denoiser; "
                "set it to 'diffusion'"
            )
        if not self.model.semantic_prior:
            raise ValueError(
                "model.semantic_prior is false, but Stage II trains the denoiser that restores it; "
                "a model without it is done after Stage I"
            )
        if self.fusion_weights:
            self.fusion_weights.check_target(self.content_target)
        elif self.content_target != "brighter_source":
            raise ValueError(
                f"content_target is {self.content_target!r}, but without fusion_weights nothing is "
                "fused; leave content_target out"
            )
        return self


class DistilledConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """After Stage II, and not in the paper: a lighter fusion network learns to use the trained priors.

    The priors and their denoiser are the trained model's, so that the two differ in the fusion network
    alone. It learns from the clean pair by the fusion loss, as in Stage I, from the clean sources if it
    restores them, and from the trained model's pictures.
    """

    system: Literal["dspfusion"] = "dspfusion"
    stage: Literal["distilled"] = "distilled"
    model: DSPFusionConfig = DSPFusionConfig()
    """The networks with the smaller fusion network."""
    teacher: DSPFusionConfig = DSPFusionConfig()
    """The networks of the trained model."""
    teacher_weight: PositiveFloat = 10
    """Weight of the distance to the teacher's picture."""
    taught_share: float = Field(0.5, ge=0, le=1)
    """Share of a batch's pairs that the teacher fuses, too; it takes longer than the lighter network."""
    restoration_weight: NonNegativeFloat = 0
    """Weight of the distance of the restored sources to the clean ones; for `model.joins_sources`."""
    fusion_weights: FusionWeights = FusionWeights()
    """Weights of the fusion loss's terms."""
    content_target: ContentTarget = "brighter_source"
    """Target of the content loss: the brighter pixel (code), or the larger value a channel (paper)."""
    lightened_share: float = Field(0, ge=0, le=1)
    """Share of the pairs that are degraded less than they come, by a random part of it."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.model.three_heads or self.teacher.three_heads:
            raise ValueError("three_heads is for imported weights; set it to false in both models")
        if self.restoration_weight and not self.model.joins_sources:
            raise ValueError(
                f"restoration_weight is {self.restoration_weight:g}, but model.joins_sources is false, "
                "so that no source is restored; leave it out"
            )
        self.fusion_weights.check_target(self.content_target)
        return self


AnyStageConfig = Stage1Config | Stage2Config | DistilledConfig


def fuser_config(config: AnyStageConfig) -> DSPFusionConfig:
    """Return the configuration of the fuser that a stage's weights fit (Stage I: no denoiser)."""
    match config:
        case Stage1Config():
            without = {"prior": "low_quality", "denoiser_predicts": "x0", "prior_blend": "restored"}
            return config.model.model_copy(update=without)
        case Stage2Config() | DistilledConfig():
            return config.model


def full() -> DSPFusionConfig:
    """The released model: 14.0 M parameters."""
    return DSPFusionConfig()


def small() -> DSPFusionConfig:
    """A model for CPUs: 0.51 M parameters, on maps of half the side, which joins its restored sources."""
    return DSPFusionConfig(
        fold=2,
        joins_sources=True,
        ffn_expansion=1.5,
        width=8,
        num_blocks=(1, 1, 1, 1),
        semantic_width=24,
        num_semantic_blocks=2,
        degradation_width=12,
        num_degradation_blocks=1,
        denoiser_width=96,
        num_denoiser_blocks=2,
    )


def mini() -> DSPFusionConfig:
    """A model for fusing on one core: `small` without refinement, its feed-forwards narrower."""
    return small().model_copy(update={"ffn_expansion": 1.0, "num_refinement_blocks": 0})


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
