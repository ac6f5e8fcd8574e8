"""A toy system: a convolution, told what the pictures suffer, makes a fused and two restored ones.

In `test_toy.py` this file becomes `models/toy/__init__.py` of a copy of the tree.
"""

from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from models.system import Batch, Fused, Hints, Initial, Stage, System, Weights, trainable


class ToyConfig(BaseModel, frozen=True, extra="forbid"):
    system: Literal["toy"] = "toy"
    width: int = 8


class ToyStage(BaseModel, frozen=True, extra="forbid"):
    system: Literal["toy"] = "toy"
    stage: Literal["only"] = "only"
    model: ToyConfig = ToyConfig()


class ToyFuser(nn.Module):
    """Pictures of even sides and operators B×3 each to a `Fused`; other sides are padded."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        layers = (nn.Conv2d(10, config.width, 3, padding=1), nn.ReLU(), nn.Dropout(0.1))
        self.layers = nn.Sequential(*layers, nn.Conv2d(config.width, 7, 3, padding=1))

    def fuse_even(self, vi: Tensor, ir: Tensor, vi_op: Tensor, ir_op: Tensor) -> Fused:
        told = torch.cat([vi_op, ir_op], dim=1)[..., None, None]  # B 6 1 1
        added = self.layers(torch.cat([vi, ir, told.expand(-1, -1, *vi.shape[2:])], dim=1))
        means = torch.cat([(vi + ir) / 2, vi, ir], dim=1)  # B 7 H W
        return Fused(*(means + 0.1 * added).clamp(0, 1).split((3, 3, 1), dim=1))

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        assert hints is not None, "this system is told what the pictures suffer"
        height, width = vi.shape[2:]
        pad = (0, width % 2, 0, height % 2)
        padded = (F.pad(picture, pad, mode="replicate") for picture in (vi, ir))
        fused = self.fuse_even(*padded, hints["vi_op"], hints["ir_op"])
        return Fused(*(picture[..., :height, :width] for picture in fused))


class ToyObjective(nn.Module):
    FIELDS = ("vi_lq", "ir_lq", "vi_gt", "ir_gt", "vi_op", "ir_op")

    def __init__(self, config: ToyStage) -> None:
        super().__init__()
        self.fuser = ToyFuser(config.model)
        self.register_buffer("last_step", torch.tensor(-1))

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        return trainable(self)

    def after_step(self, step: int) -> None:
        self.last_step.fill_(step)  # part of the state: a resumed run has it, too

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        fused, vi, ir = self.fuser(batch["vi_lq"], batch["ir_lq"], batch)
        target = torch.maximum(batch["vi_gt"], batch["ir_gt"])
        terms = {"fusion": F.l1_loss(fused, target), "vi": F.l1_loss(vi, batch["vi_gt"])}
        loss = terms["fusion"] + terms["vi"] + F.l1_loss(ir, batch["ir_gt"])
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


class ToyProgram(nn.Module):
    def __init__(self, fuser: ToyFuser) -> None:
        super().__init__()
        self.fuser = fuser

    def forward(self, vi: Tensor, ir: Tensor, *hints: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.fuser.fuse_even(vi, ir, *hints))


def fuser_weights(config: ToyStage, state: Weights) -> tuple[ToyConfig, Weights]:
    names = [name for name in state if name.startswith("fuser.")]
    return config.model, {name.removeprefix("fuser."): state[name] for name in names}


def load_initial(objective: nn.Module, config: Any, initial: Initial) -> None:
    objective.load_state_dict(initial.weights)


SYSTEM = System(
    name="toy",
    stages=(Stage(ToyStage, sampler="pairs"),),
    fuser_config=ToyConfig,
    build_objective=ToyObjective,
    build_fuser=ToyFuser,
    fuser_weights=fuser_weights,
    load_initial=load_initial,
    program=ToyProgram,
    shrink=lambda config: config,
    tiny=ToyConfig,
    multiple_px=2,
    hints="operators",
    restores_sources=True,
    only_linear=True,
)
