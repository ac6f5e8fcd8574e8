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
    float32) it does nothing: strips keep little anyway.
    """
    for block in network.modules():
        if isinstance(block, kinds):
            block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled() or cpu_strips.use_strips(*inputs):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True)
