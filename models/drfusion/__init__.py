"""DRFusion, as the platform knows it: one stage, a fuser that is told the operators."""

from torch import nn

from models.drfusion import released
from models.drfusion.config import (
    MIN_SIZE_PX,
    SIZE_MULTIPLE_PX,
    DRFusionConfig,
    Stage1Config,
    tiny,
)
from models.drfusion.fuser import DRFusionFuser, EvenFuser
from models.drfusion.parity.cases import check_golden_vectors
from models.drfusion.parity.fill import Index
from models.drfusion.stage1 import Stage1
from models.golden import Golden
from models.system import Initial, ReleasedWeights, Stage, System, Weights


def _fuser_weights(config: Stage1Config, state: Weights) -> tuple[DRFusionConfig, Weights]:
    # The objective's chain has the fuser's names, and nothing else has weights.
    return config.model, state


def _load_initial(objective: nn.Module, config: Stage1Config, initial: Initial) -> None:
    """Load weights of the only stage. Raises RuntimeError naming the key of another size."""
    objective.load_state_dict(initial.weights)


def _shrink(config: Stage1Config) -> Stage1Config:
    # What the networks are made of stays the recipe's.
    sizes = tiny().model_dump(exclude_unset=True)
    return config.model_copy(update={"model": config.model.model_copy(update=sizes)})


SYSTEM = System(
    name="drfusion",
    stages=(Stage(Stage1Config, sampler="pairs"),),
    fuser_config=DRFusionConfig,
    build_objective=Stage1,
    build_fuser=DRFusionFuser,
    fuser_weights=_fuser_weights,
    load_initial=_load_initial,
    program=EvenFuser,
    shrink=_shrink,
    tiny=tiny,
    multiple_px=SIZE_MULTIPLE_PX,
    least_px=MIN_SIZE_PX,
    padding="edge",
    hints="operators",
    restores_sources=True,
    only_linear=True,
    num_steps=lambda config: config.num_steps,
    released=ReleasedWeights((released.OFFICIAL_FILE,), released.convert, state_key=None),
    golden=Golden(Index, check_golden_vectors),
)
