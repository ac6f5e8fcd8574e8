"""The LURE-style reconstruction, as the platform knows it: two stages, a fuser that takes prompts."""

from torch import nn

from models.lure.config import (
    MIN_SIZE_PX,
    SIZE_MULTIPLE_PX,
    LUREConfig,
    Stage1Config,
    Stage2Config,
    fuser_config,
    tiny,
)
from models.lure.fuser import LUREFuser, PaddedFuser
from models.lure.initial import load_initial
from models.lure.stage1 import Stage1
from models.lure.stage2 import Stage2
from models.system import Stage, System, Weights

# What a fuser needs of an objective's state: all but the teachers and the running moments.
_OF_FUSER = ("prompts", "routers", "encoders", "decoders", "fusion", "fused_decoder")


def _build_objective(config: Stage1Config | Stage2Config) -> nn.Module:
    match config:
        case Stage1Config():
            return Stage1(config)
        case Stage2Config():
            return Stage2(config)


def _fuser_weights(
    config: Stage1Config | Stage2Config, state: Weights
) -> tuple[LUREConfig, Weights]:
    weights = {key: value for key, value in state.items() if key.split(".")[0] in _OF_FUSER}
    return fuser_config(config), weights


def _shrink(config: Stage1Config | Stage2Config) -> Stage1Config | Stage2Config:
    # What the networks are made of stays the recipe's.
    sizes = tiny().model_dump(exclude_unset=True)
    return config.model_copy(update={"model": config.model.model_copy(update=sizes)})


SYSTEM = System(
    name="lure",
    stages=(
        Stage(Stage1Config, sampler="singles"),
        Stage(Stage2Config, sampler="pairs", needs_init="a Stage I checkpoint"),
    ),
    fuser_config=LUREConfig,
    build_objective=_build_objective,
    build_fuser=LUREFuser,
    fuser_weights=_fuser_weights,
    load_initial=load_initial,
    program=PaddedFuser,
    shrink=_shrink,
    tiny=tiny,
    multiple_px=SIZE_MULTIPLE_PX,
    least_px=MIN_SIZE_PX,
    hints="prompts",
    restores_sources=True,
)
