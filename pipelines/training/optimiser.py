"""A step of the optimiser: gradients of some batches, clipped, one rate for each parameter group."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from pipelines.batches.stream import Batch
from pipelines.training.checkpoints import TrainingState
from pipelines.training.config import OptimConfig


def start_state(objective: Stage1 | Stage2, optim: OptimConfig) -> TrainingState:
    """The state before the first step; frozen parameters are not optimised."""
    groups = [{"params": parameters} for _, parameters in objective.parameter_groups()]
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )
    if optim.ema_decay is None:
        return TrainingState(objective, optimizer, None)
    average = get_ema_multi_avg_fn(optim.ema_decay)
    return TrainingState(objective, optimizer, AveragedModel(objective, multi_avg_fn=average))


def group_shares(objective: Stage1 | Stage2) -> list[float]:
    """Each parameter group's share of the learning rate, in the optimiser's order."""
    return [share for share, _ in objective.parameter_groups()]


def train_step(
    replica: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    rates: Sequence[float],
    clip_norm: float,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> dict[str, Tensor]:
    """Forward and backward over all batches, clip, step at one of `rates` for each parameter group.

    Returns the mean of the detached loss terms and the gradient's norm before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for place, batch in enumerate(batches, start=1):
        # Replicas meet once a step, in the last backward pass.
        with nullcontext() if place == len(batches) else _alone(replica):
            terms = _forward(replica, batch, precision)
            (terms["loss"] / len(batches)).backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / len(batches)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.step()
    return sums | {"grad_norm": norm}


def _forward(replica: nn.Module, batch: Batch, precision: str) -> dict[str, Tensor]:
    device = next(replica.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        terms: dict[str, Tensor] = replica(batch)
    return terms


def _alone(replica: nn.Module) -> AbstractContextManager[None]:
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()


def check_replicas(objective: nn.Module) -> None:
    """Raise ValueError when the ranks' parameters are not the same bits."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    sums = [parameter.detach().double().sum() for parameter in objective.parameters()]
    mine = torch.stack(sums)  # one number a parameter
    all_ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(all_ranks, mine)
    apart = [rank for rank, sums in enumerate(all_ranks) if not torch.equal(sums, all_ranks[0])]
    if apart:
        raise ValueError(
            f"the weights of ranks {apart} are not those of rank 0; the last checkpoint is kept: "
            "start again from it, and look for what differs between the nodes"
        )
