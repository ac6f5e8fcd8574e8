"""What a DRFusion model is made of and how it is trained.

Spec is the text `specs/drfusion.md`, paper is arXiv 2604.08922, release is the authors' code.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Correction = Literal["released", "paper", "off"]
LossProfile = Literal["released", "paper", "medical"]

# The last up-sampling is not cropped (spec 2).
SIZE_MULTIPLE_PX = 2
MIN_SIZE_PX = 16
# What the attention of a skip divides its channels by (spec 3.3).
GATE_REDUCTION = 8

_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DRFusionConfig(BaseModel):
    """Networks and sampler; the defaults are the release's."""

    model_config = _FROZEN

    system: Literal["drfusion"] = "drfusion"
    width: int = Field(default=64, gt=0, le=2048)
    """Channels at full resolution; twice, four and eight times as many below."""
    num_groups: int = Field(default=32, gt=0)
    """Groups of every group normalisation."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of a residual block's values that are dropped in training."""
    num_steps: int = Field(default=3, ge=1, le=1000)
    """Steps T of the unrolled chain, each with a learned coefficient."""
    correction: Correction = "released"
    """The joint observation correction (spec 4.5). "released" is the authors' form where both pictures
    suffer noise alone and the paper's elsewhere; "off" is the paper's ablation."""
    sigma_y: float | None = Field(default=0.03, ge=0, le=10)
    """Noise that the correction reckons with in all pictures, in [0, 1]; null: each picture's own."""
    inverse: Literal["cascade", "gradients"] = "cascade"
    """How a correction inverts A: by the pseudo-inverses of its parts, which of blur and low resolution
    together is an approximation, or by ten conjugate-gradient iterations from there: nearer, and slower."""
    inverse_threshold: float = Field(default=0.03, gt=0, lt=1)
    """Frequencies that a blur weakens below this are not restored by its pseudo-inverse."""
    chroma: Literal["degraded", "denoised"] = "degraded"
    """Colour of the result: the degraded picture's, or that smoothed along the fused picture's edges."""

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.width % self.num_groups or self.width % GATE_REDUCTION:
            raise ValueError(
                f"width {self.width} must be a multiple of num_groups {self.num_groups} and of "
                f"{GATE_REDUCTION}"
            )
        return self


class Stage1Config(BaseModel):
    """The only stage: the whole chain at once, by reconstruction and fusion losses."""

    model_config = _FROZEN

    system: Literal["drfusion"] = "drfusion"
    stage: Literal["stage1"] = "stage1"
    model: DRFusionConfig = DRFusionConfig()
    loss: LossProfile = "released"
    """Weights and targets of the losses (spec 6)."""
    recompute_steps: bool = False
    """Keep each step's input alone, and run the network again in the backward pass: for memory."""


def full() -> DRFusionConfig:
    """The published model: 31.8 M parameters, 63 GMAC a step at 256 px."""
    return DRFusionConfig()


def small() -> DRFusionConfig:
    """A model of 2.0 M parameters for a laptop's cores."""
    return DRFusionConfig(width=16, num_groups=8)


def tiny() -> DRFusionConfig:
    """The least model with every part, for tests: a last step, and one that is not."""
    return DRFusionConfig(width=8, num_groups=4, num_steps=2)
