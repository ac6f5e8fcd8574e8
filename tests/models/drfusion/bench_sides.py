"""The two sides of `jobs.bench model --system drfusion`: our networks, and the plain unrolled build.

The plain build is the same modules by their own lines: whole maps, channels first, every map kept.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from jobs.bench.model_speed import HEIGHT_PX, WIDTH_PX, Setup, Side, Work
from models.drfusion.config import Stage1Config, full
from models.drfusion.fuser import DRFusionFuser
from models.drfusion.parity.fill import filled_fuser as filled
from models.drfusion.stage1 import Stage1
from models.layers import cpu_strips
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step

# Samples of a step where nothing else is asked for; of inference it is one.
BATCH_SIZE = 2
# The release's scenario: noise of 14 levels, no blur, no blocks.
_NOISE = (14 / 255, 0.0, 1.0)


def make_work(part: str, side: Side, setup: Setup) -> Work:
    """Build one side of a comparison, with the same weights and inputs as the other."""
    torch.manual_seed(0)
    if part == "stage1":
        return _step(side, setup)
    if part != "inference":
        raise ValueError(f"--parts {part}: of drfusion inference and stage1 are measured")
    return _fuse(side, setup)


def filled_fuser() -> DRFusionFuser:
    """The full-size fuser with the weights of the fill rule."""
    return filled(full().num_steps)


def _fuse(side: Side, setup: Setup) -> Work:
    fuser = filled_fuser().eval().to(setup.device)
    batch = _batch(setup, setup.batch_size or 1, HEIGHT_PX, WIDTH_PX)
    hints = {name: batch[name] for name in ("vi_op", "ir_op")}

    def work() -> Tensor:
        with torch.inference_mode(), _lines(side):
            return fuser(batch["vi_lq"], batch["ir_lq"], hints).fused

    return work


def _step(side: Side, setup: Setup) -> Work:
    """A whole training step: forward, backward, clip, Adam; on an accelerator ours recomputes."""
    recompute = side == "ours" and setup.device != "cpu"
    objective = Stage1(Stage1Config(recompute_steps=recompute)).to(setup.device)
    optim = OptimConfig.model_validate({"num_steps": 1, "optimizer": "adam", "weight_decay": 0})
    state = start_state(objective, optim)
    batch = _batch(setup, setup.batch_size or BATCH_SIZE, setup.crop_px, setup.crop_px)

    def work() -> Tensor:
        torch.manual_seed(1)
        with _lines(side):
            return train_step(objective, state, [batch], optim, step=0)["loss"]

    return work


def _lines(side: Side) -> AbstractContextManager[None]:
    return cpu_strips.whole_maps() if side == "plain" else nullcontext()


def _batch(setup: Setup, size: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    channels = {"vi_lq": 3, "vi_gt": 3, "ir_lq": 1, "ir_gt": 1}
    batch = {
        name: torch.rand(size, count, height, width, generator=generator)
        for name, count in channels.items()
    }
    batch |= {name: torch.tensor([_NOISE] * size) for name in ("vi_op", "ir_op")}
    return {name: tensor.to(setup.device) for name, tensor in batch.items()}
