"""The LURE-style reconstruction, as the platform knows it: two stages, a fuser that takes prompts."""

import torch
from torch import Tensor, nn

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
from models.lure.text import PSEUDO_TASK, TASKS, Camera
from models.lure.unified import latent_gap_ratio
from models.system import Probe, Prompted, Stage, System, Weights

# Side of what the probe looks at: hundreds of pictures are embedded.
_EMBEDDED_PX = 192
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


def _embed(
    fuser: LUREFuser, picture: Tensor, camera: Camera, suffers: str
) -> dict[str, Tensor] | None:
    """Means 1×C of the deepest latents, under the picture's own prompt and the clean one's (spec 7, ii).

    Of the middle of the picture. What has no prompt is told as clean.
    """
    known = list(TASKS[camera])
    for axis in (2, 3):
        side = min(picture.shape[axis], _EMBEDDED_PX) // SIZE_MULTIPLE_PX * SIZE_MULTIPLE_PX
        picture = picture.narrow(axis, (picture.shape[axis] - side) // 2, side)
    own = torch.tensor([known.index(suffers) if suffers in known else PSEUDO_TASK])
    return {
        name: fuser.latents(camera, picture, task.to(picture.device))[-1].mean(dim=(2, 3))
        for name, task in (("latents", own), ("latents_unprompted", torch.tensor([PSEUDO_TASK])))
    }


def _restore(fuser: LUREFuser, picture: Tensor, camera: Camera, task: Tensor) -> Tensor:
    return fuser.restore(camera, picture, task)


def _sees(fuser: LUREFuser, picture: Tensor, camera: Camera) -> Tensor:
    return fuser.sees(camera, picture)


def _latent_gap(
    fuser: LUREFuser, degraded: Tensor, clean: Tensor, camera: Camera, task: Tensor
) -> float:
    pseudo = torch.full_like(task, PSEUDO_TASK)
    latents = fuser.latents(camera, degraded, task)
    return float(latent_gap_ratio(latents, fuser.latents(camera, clean, pseudo)))


def _shrink(config: Stage1Config | Stage2Config) -> Stage1Config | Stage2Config:
    # What the networks are made of stays the recipe's.
    sizes = tiny().model_dump(exclude_unset=True)
    return config.model_copy(update={"model": config.model.model_copy(update=sizes)})


SYSTEM = System(
    name="lure",
    stages=(
        Stage(Stage1Config, sampler="singles", is_probed=True),
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
    probe=Probe("latents", _embed),
    prompted=Prompted(restore=_restore, sees=_sees, latent_gap=_latent_gap),
    restores_sources=True,
)
