"""DSPFusion, as the platform knows it: its stages, a blind fuser, degradation priors to look at."""

from typing import Literal

from torch import Tensor, nn

from models.color import to_rgb
from models.dspfusion import released
from models.dspfusion.config import (
    SIZE_MULTIPLE_PX,
    AnyStageConfig,
    DistilledConfig,
    DSPFusionConfig,
    Stage1Config,
    Stage2Config,
    fuser_config,
    tiny,
)
from models.dspfusion.distilled import Distilled, without_teacher
from models.dspfusion.fuser import (
    MIN_SIZE_PX,
    DSPFusionFuser,
    PaddedFuser,
    pad_to_multiple,
    prepare,
)
from models.dspfusion.initial import load_initial
from models.dspfusion.parity.cases import check_golden_vectors
from models.dspfusion.parity.fill import Index
from models.dspfusion.priors import DegradationEncoder
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from models.golden import Golden
from models.system import Probe, ReleasedWeights, Stage, System, Weights


def _build_objective(config: AnyStageConfig) -> nn.Module:
    match config:
        case Stage1Config():
            return Stage1(config)
        case Stage2Config():
            return Stage2(config)
        case DistilledConfig():
            return Distilled(config)


def _fuser_weights(config: AnyStageConfig, state: Weights) -> tuple[DSPFusionConfig, Weights]:
    if isinstance(config, DistilledConfig):
        return fuser_config(config), without_teacher(state)
    # An objective's networks have the fuser's names, and nothing else has weights.
    return fuser_config(config), state


def _fused_stage(config: AnyStageConfig) -> AnyStageConfig:
    # A distilled run has its teacher, too; what it taught is a Stage II's networks.
    return Stage2Config(model=config.model) if isinstance(config, DistilledConfig) else config


def _shrink(config: AnyStageConfig) -> AnyStageConfig:
    # What the networks are made of stays the recipe's.
    sizes = tiny().model_dump(exclude_unset=True)
    models = {"model": config.model}
    if isinstance(config, DistilledConfig):
        models["teacher"] = config.teacher
    shrunk = {name: model.model_copy(update=sizes) for name, model in models.items()}
    return config.model_copy(update=shrunk)


def _embed(
    fuser: DSPFusionFuser, picture: Tensor, camera: Literal["vi", "ir"], suffers: str
) -> dict[str, Tensor] | None:
    """Degradation prior (its tokens' mean) and type vector of a picture, 1×D each (spec 1.2)."""
    encoder = fuser.degradation
    if not isinstance(encoder, DegradationEncoder):
        return None
    picture = pad_to_multiple(picture)
    prior = encoder(to_rgb(picture) if camera == "ir" else picture)  # 1 N D
    return {"prior": prior.mean(dim=1), "type": encoder.type_vector(prior)}


SYSTEM = System(
    name="dspfusion",
    stages=(
        Stage(Stage1Config, sampler="groups", is_probed=True),
        Stage(Stage2Config, sampler="groups", needs_init="a Stage I checkpoint"),
        Stage(DistilledConfig, sampler="groups", needs_init="a Stage II checkpoint"),
    ),
    fuser_config=DSPFusionConfig,
    build_objective=_build_objective,
    build_fuser=DSPFusionFuser,
    fuser_weights=_fuser_weights,
    fused_stage=_fused_stage,
    load_initial=load_initial,
    program=PaddedFuser,
    shrink=_shrink,
    tiny=tiny,
    multiple_px=SIZE_MULTIPLE_PX,
    least_px=MIN_SIZE_PX,
    prepare=prepare,
    num_steps=lambda config: config.num_steps if config.restores_prior else None,
    set_num_steps=DSPFusionFuser.set_num_steps,
    probe=Probe("degradation priors", _embed),
    golden=Golden(Index, check_golden_vectors),
    released=ReleasedWeights(tuple(released.OFFICIAL_FILES.values()), released.convert),
)
