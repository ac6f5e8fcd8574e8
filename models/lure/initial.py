"""Initial weights: which earlier stage an objective may start from, and what of it has to be the same."""

from torch import nn

from models.lure.config import Stage1Config, Stage2Config
from models.lure.stage2 import Stage2
from models.system import Initial


def load_initial(
    objective: nn.Module, config: Stage1Config | Stage2Config, initial: Initial
) -> None:
    """Load the weights of a Stage I run, or of one of the objective's own stage.

    Raises ValueError for another stage, or other networks than the configuration's.
    """
    there = initial.config
    if not isinstance(there, (Stage1Config, type(config))):
        raise ValueError(f"is a {there.system} {there.stage} checkpoint, not lure stage1")
    differing = [
        f"{key}={value!r} there, {getattr(config.model, key)!r} here"
        for key, value in there.model
        if value != getattr(config.model, key)
    ]
    if differing:
        raise ValueError(f"the checkpoint was trained with other networks: {', '.join(differing)}")
    if isinstance(objective, Stage2) and isinstance(there, Stage1Config):
        objective.load_stage1(initial.weights)
    else:
        objective.load_state_dict(initial.weights)
