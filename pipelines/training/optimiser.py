"""A step of the optimiser: gradients of some batches, clipped, one rate for each parameter group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.system import Batch
from pipelines.store.seeding import rng_at
from pipelines.training.checkpoints import TrainingState
from pipelines.training.config import OptimConfig


def start_state(objective: nn.Module, optim: OptimConfig) -> TrainingState:
    """The state before the first step; frozen parameters are not optimised."""
    groups, shares = [], []
    for share, parameters in objective.parameter_groups():  # type: ignore[operator]
        groups.append({"params": [p for p in parameters if p.requires_grad]})
        shares.append(share)
    if not any(group["params"] for group in groups):
        raise ValueError("every parameter is frozen; name fewer in freeze")
    kind = torch.optim.AdamW if optim.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(
        groups,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        # One kernel for many parameters. On a CPU it would round otherwise than torch's own default.
        fused=True if _device_of(objective).type == "cuda" else None,
    )
    if optim.ema_decay is None:
        return TrainingState(objective, optimizer, tuple(shares), None)
    average = get_ema_multi_avg_fn(optim.ema_decay)
    averaged = AveragedModel(objective, multi_avg_fn=average)
    return TrainingState(objective, optimizer, tuple(shares), averaged)


def train_step(
    replica: nn.Module,
    state: TrainingState,
    batches: Sequence[Batch],
    optim: OptimConfig,
    *,
    step: int,
    rank: int = 0,
) -> dict[str, Tensor]:
    """Forward and backward over all batches, clip, and step at the schedule's rate.

    `replica` is the state's model, or what wraps it. Returns the mean of the detached loss terms and the
    gradient's norm before clipping.
    """
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    with seeded(optim.seed, step, rank):
        for place, batch in enumerate(batches, start=1):
            # Replicas average their gradients once a step, in the last backward pass.
            with nullcontext() if place == len(batches) else _unsynchronised(replica):
                with _rounding(optim.precision, _device_of(state.model)):
                    terms: dict[str, Tensor] = replica(batch, step)
                (terms["loss"] / len(batches)).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / len(batches)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
    rate = optim.schedule.rate(step, num_steps=optim.num_steps, lr=optim.lr)
    for group, share in zip(state.optimizer.param_groups, state.rate_shares, strict=True):
        group["lr"] = rate * share
    state.optimizer.step()
    return sums | {"grad_norm": norm}


@contextmanager
def seeded(seed: int, step: int, rank: int) -> Iterator[None]:
    """Seed torch's generators by seed, step and rank inside the block; restore them after it.

    Dropout draws from them, so a resumed run drops the same values as an uninterrupted one.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng_at(seed, "step", str(step), str(rank)).integers(2**62)))
        yield


def _device_of(objective: nn.Module) -> torch.device:
    return next(objective.parameters()).device


def _rounding(precision: str, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _unsynchronised(replica: nn.Module) -> AbstractContextManager[None]:
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()


def check_replicas(objective: nn.Module) -> None:
    """Raise ValueError when the ranks' parameters are not the same bits."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    # As one buffer: a sum a parameter is a thousand small kernels.
    flat = torch.cat([parameter.detach().flatten() for parameter in objective.parameters()])
    mine = flat.view(torch.int32).sum(dtype=torch.int64)  # of the bits of float32
    all_ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(all_ranks, mine)
    sums = torch.stack(all_ranks).tolist()
    apart = [rank for rank, total in enumerate(sums) if total != sums[0]]
    if apart:
        raise ValueError(
            f"the weights of ranks {apart} are not those of rank 0; the last checkpoint is kept: "
            "resume from it, and look for what differs between the nodes"
        )
