"""Initial weights: which earlier stage an objective may start from, and what of it has to be the same."""

from collections.abc import Container

from torch import nn

from models.dspfusion.config import (
    AnyStageConfig,
    DistilledConfig,
    DSPFusionConfig,
    Stage2Config,
)
from models.dspfusion.distilled import Distilled, without_teacher
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
# The fusion network, in which a distilled model may be smaller than its teacher.
_OF_FUSION = frozenset(
    {
        "fold",
        "joins_sources",
        "width",
        "num_blocks",
        "num_heads",
        "num_refinement_blocks",
        "ffn_expansion",
        "dpmm_convolution",
        "fusion_convolution",
        "level1_reduction",
    }
)


def load_initial(objective: nn.Module, config: AnyStageConfig, initial: Initial) -> None:
    """Load the weights of a run of any stage: what both have, and all of one of the same stage.

    Raises ValueError for other networks than the configuration's.
    """
    trained, weights = initial.config, initial.weights
    if isinstance(config, DistilledConfig):
        assert isinstance(objective, Distilled)
        _load_distilled(objective, config, initial)
        return
    if isinstance(trained, DistilledConfig):
        trained, weights = Stage2Config(model=trained.model), without_teacher(weights)
    same = trained.stage == config.stage
    own = _AT_INFERENCE if same else _STAGE2_ALONE
    check_same_networks(trained.model, config.model, except_for=own)
    if isinstance(objective, Stage2) and not same:
        objective.load_stage1(weights)
        return
    if not same:
        # Stage I goes on with the networks that a Stage II had frozen.
        shared = {key.split(".")[0] for key in objective.state_dict()}
        weights = {key: value for key, value in weights.items() if key.split(".")[0] in shared}
    objective.load_state_dict(weights)


def _load_distilled(objective: Distilled, config: DistilledConfig, initial: Initial) -> None:
    trained, weights = initial.config, initial.weights
    if isinstance(trained, DistilledConfig):
        pairs = ((trained.model, config.model), (trained.teacher, config.teacher))
        if not any(_differing(was, now, _AT_INFERENCE) for was, now in pairs):
            objective.load_state_dict(weights)
            return
        # What was taught teaches.
        trained, weights = Stage2Config(model=trained.model), without_teacher(weights)
    if trained.stage != "stage2":
        raise ValueError(
            f"a distilled model learns from a whole one, and these weights are of {trained.stage}; "
            "start from a Stage II run"
        )
    check_same_networks(trained.model, config.teacher, except_for=_AT_INFERENCE)
    check_same_networks(trained.model, config.model, except_for=_AT_INFERENCE | _OF_FUSION)
    objective.load_trained(weights)


def _differing(
    checkpoint: DSPFusionConfig, config: DSPFusionConfig, except_for: Container[str]
) -> list[str]:
    trained, wanted = dict(checkpoint), dict(config)
    return sorted(key for key in wanted if key not in except_for and trained[key] != wanted[key])


def check_same_networks(
    checkpoint: DSPFusionConfig, config: DSPFusionConfig, *, except_for: Container[str]
) -> None:
    """Raise ValueError naming the settings in which the networks differ, `except_for` some."""
    trained, wanted = dict(checkpoint), dict(config)
    if differing := _differing(checkpoint, config, except_for):
        raise ValueError(
            "the checkpoint was trained with other networks: "
            + ", ".join(f"{key} was {trained[key]!r}, is {wanted[key]!r} here" for key in differing)
        )
