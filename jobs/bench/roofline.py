"""What a training step should cost on a GPU that is not here: counted, not measured.

A step runs on torch's device `meta`, which computes nothing, and every kernel that it would launch is
counted: its FLOPs by torch's own formulas, its bytes as those of its inputs and outputs. A kernel takes
what the slower of the two takes at the card's peak (Williams et al. 2009, the roofline), and none can start
sooner than Python launches it. Both bounds are below what a card will need: the first measurement has
something to disagree with.

Assumed for bf16: products read and write half the bytes; the rest stays as in float32, for autocast's casts
make up for what they halve. The optimiser is one pass over weights, gradients and moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from jobs.config import find_recipe
from jobs.console import print_line
from jobs.recipes import TRAINING
from models import system_of
from pipelines.training.config import TrainingConfig
from pipelines.training.objectives import stand_in_batch

# What eager Python takes to launch a kernel, about, on a machine with a GPU.
LAUNCH_S = 5e-6
# Reads of weight, gradient and both moments, writes of all but the gradient; 4 bytes each.
_OPTIMISER_BYTES = 7 * 4


@dataclass(frozen=True)
class Card:
    """Peak rates of a card, of dense products: bf16 and float32 FLOP/s, bytes/s of its memory."""

    name: str
    bf16: float
    float32: float
    bandwidth: float


# NVIDIA's data sheets of the SXM cards.
CARDS = (
    Card("H100", bf16=989e12, float32=67e12, bandwidth=3.35e12),
    Card("H200", bf16=989e12, float32=67e12, bandwidth=4.8e12),
)


@dataclass
class Counted:
    """FLOPs and bytes of every kernel that was launched."""

    kernels: list[tuple[int, int]] = field(default_factory=list)

    def seconds(self, card: Card, *, precision: str) -> float:
        """What the kernels take one after the other."""
        peak, half = (card.bf16, 2) if precision == "bf16" else (card.float32, 1)
        return sum(
            max(flops / peak, num_bytes / (half if flops else 1) / card.bandwidth)
            for flops, num_bytes in self.kernels
        )


class _Counter(TorchDispatchMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if _launches(func) and any(tensor.is_meta for tensor in tensors):
            formula = flop_registry.get(func.overloadpacket)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            self._counted.kernels.append((flops, sum(map(_num_bytes, tensors))))
        return out


def _launches(func: Any) -> bool:
    """Whether an operator reads or writes: neither a view nor memory without contents."""
    views = (r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return not any(views) and not func.overloadpacket.__name__.startswith(("empty", "detach"))


def _num_bytes(tensor: Tensor) -> int:
    # An expanded tensor is read as what it is made of.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextmanager
def counting() -> Iterator[Counted]:
    """Count the kernels of what is done inside the block on the device `meta`."""
    counted = Counted()
    with _Counter(counted):
        yield counted


def count_step(config: TrainingConfig, *, batch_size: int) -> Counted:
    """Count forward, backward and the optimiser of one step of a training's objective."""
    system = system_of(config.objective)
    objective: Any = system.build_objective(config.objective).to("meta")
    batch = stand_in_batch(config, objective, batch_size=batch_size, device="meta")
    with counting() as counted:
        objective(batch, 0)["loss"].backward()
    trained = sum(p.numel() for _, group in objective.parameter_groups() for p in group)
    counted.kernels.append((0, trained * _OPTIMISER_BYTES))
    return counted


def bench_roofline(recipes: list[str], *, batch_sizes: list[int]) -> None:
    """Print a line for each recipe, batch, card and precision."""
    print_line("recipe, batch                       kernels   TFLOP      GB  launch ms")
    for name in recipes:
        config = find_recipe(TRAINING, name)
        for batch_size in batch_sizes:
            for line in describe_step(name, count_step(config, batch_size=batch_size), batch_size):
                print_line(line)


def describe_step(name: str, counted: Counted, batch_size: int) -> Iterator[str]:
    """What was counted, and the least time of a step on each card."""
    num_kernels = len(counted.kernels)
    flops, num_bytes = (sum(each) for each in zip(*counted.kernels, strict=True))
    launch_s = num_kernels * LAUNCH_S
    title = f"{name}, {batch_size}"
    yield (
        f"{title:<34} {num_kernels:>8} {flops / 1e12:>7.2f} {num_bytes / 1e9:>7.1f} "
        f"{1e3 * launch_s:>10.1f}"
    )
    for card in CARDS:
        for precision in ("float32", "bf16"):
            busy_s = counted.seconds(card, precision=precision)
            least_s = max(busy_s, launch_s)
            yield (
                f"    {card.name} {precision:<8} kernels {1e3 * busy_s:7.1f} ms, "
                f"a step {1e3 * least_s:7.1f} ms or more, {batch_size / least_s:7.1f} samples/s or less"
            )
