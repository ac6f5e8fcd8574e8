"""Activation checkpointing: blocks whose maps are made again for the backward pass instead of kept."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import cpu_strips
from models.layers.blocks import TransformerBlock


def recompute_blocks(
    network: nn.Module, kinds: tuple[type[nn.Module], ...] = (TransformerBlock,)
) -> None:
    """Let each block of these kinds keep its inputs alone while gradients are recorded.

    Saves memory for one more forward pass through the blocks. Losses and gradients stay the same,
    dropout included; so do parameters and their names. Where a block goes by strips (on a CPU, in
    float32) it does nothing: strips keep little anyway. Raises ValueError where there is no such block.
    """
    blocks = [block for block in network.modules() if isinstance(block, kinds)]
    if not blocks:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"recompute_blocks has no effect: {type(network).__name__} has no {names}; leave it out"
        )
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled() or cpu_strips.use_strips(*inputs):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True)
