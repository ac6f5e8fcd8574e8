"""Initial weights: which earlier stage an objective may start from, and what of it has to be the same."""

from collections.abc import Container

from torch import nn

from models.dspfusion.config import DSPFusionConfig, Stage1Config, Stage2Config
from models.dspfusion.stage2 import Stage2
from models.system import Initial

_AT_INFERENCE = frozenset({"noise_seed", "stretch"})
# The denoiser and its chain.
_STAGE2_ALONE = _AT_INFERENCE | {
    "prior",
    "denoiser_predicts",
    "prior_blend",
    "denoiser_width",
    "num_denoiser_blocks",
    "num_steps",
    "beta_start",
    "beta_end",
}


def load_initial(
    objective: nn.Module, config: Stage1Config | Stage2Config, initial: Initial
) -> None:
    """Load the weights of a Stage I run, or of one of the objective's own stage.

    Raises ValueError for another stage, or other networks than the configuration's.
    """
    trained = initial.config
    if trained.stage not in ("stage1", config.stage):
        raise ValueError(f"is a {trained.stage} checkpoint, not stage1")
    own = _STAGE2_ALONE if isinstance(trained, Stage1Config) else _AT_INFERENCE
    check_same_networks(trained.model, config.model, except_for=own)
    if isinstance(objective, Stage2) and isinstance(trained, Stage1Config):
        objective.load_stage1(initial.weights)
    else:
        objective.load_state_dict(initial.weights)


def check_same_networks(
    checkpoint: DSPFusionConfig, config: DSPFusionConfig, *, except_for: Container[str]
) -> None:
    """Raise ValueError naming the settings in which the networks differ, `except_for` some."""
    trained, wanted = dict(checkpoint), dict(config)
    differing = sorted(
        key for key in wanted if key not in except_for and trained[key] != wanted[key]
    )
    if differing:
        raise ValueError(
            "the checkpoint was trained with other networks: "
            + ", ".join(f"{key} was {trained[key]!r}, is {wanted[key]!r} here" for key in differing)
        )
