"""A group normalisation, SiLU and the 3×3 convolution after them, whose input alone is kept.

Their own lines keep four maps for the backward pass: what the normalisation takes, what SiLU takes, what
dropout lets through, what the convolution takes. The cheap three are made again here.

Shapes: B batch, C channels in, O out, H W pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.layers.cpu_strips.pixel_rows import wants_gradient
from models.layers.cpu_strips.wide_convolution import is_wide, wide_convolution

_SAME, _NO_BORDER = (1, 1), (0, 0)
# Below, making the maps again takes a seventh of a training step, and they are small.
_LEAST_CHANNELS = 64


def is_worth_training(convolution: nn.Conv2d) -> bool:
    """Whether `normed_convolution` pays while gradients are recorded: not for few channels."""
    return min(convolution.weight.shape[:2]) >= _LEAST_CHANNELS


def normed_convolution(
    x: Tensor, norm: nn.GroupNorm, convolution: nn.Conv2d, *, dropout: float = 0.0
) -> Tensor:
    """Return B×O×H×W: `convolution`, 3×3 of stride 1, of the dropped-out SiLU of the norm of B×C×H×W."""
    weights = (norm.weight, norm.bias, convolution.weight, convolution.bias)
    if wants_gradient(x, *weights[:3]):
        return _NormedConvolution.apply(x, (norm.num_groups, norm.eps, dropout), *weights)
    normed = F.silu(norm(x), inplace=True)
    return _convolve(F.dropout(normed, dropout, training=dropout > 0), *weights[2:])


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if is_wide(x, weight):
        return wide_convolution(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=_SAME)


class _NormedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: tuple[int, float, float], *weights: Tensor) -> Tensor:
        scale, offset, kernel, bias = weights
        groups, eps, dropout = numbers
        normed = F.silu(F.group_norm(x, groups, scale, offset, eps), inplace=True)
        mask = None
        if dropout:
            normed, mask = torch.native_dropout(normed, dropout, True)
        ctx.numbers = numbers
        ctx.save_for_backward(x, scale, offset, kernel, mask)
        return _convolve(normed, kernel, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *given, weight, mask = ctx.saved_tensors
        groups, eps, dropout = ctx.numbers
        with torch.enable_grad():
            x, scale, offset = (tensor.detach().requires_grad_() for tensor in given)
            normed = F.silu(F.group_norm(x, groups, scale, offset, eps))
        # A convolution's gradient is the convolution with the kernel turned and transposed.
        towards = _convolve(grad, weight.flip(2, 3).transpose(0, 1), None)
        taken = normed.detach()
        if mask is not None:
            taken, towards = (
                torch.ops.aten.native_dropout_backward(maps, mask, 1 / (1 - dropout))
                for maps in (taken, towards)
            )
        grads = torch.autograd.grad(normed, (x, scale, offset), towards)
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, taken, weight, [len(weight)], _SAME, _SAME, _SAME, False, _NO_BORDER, 1,
            [False, True, True],
        )  # fmt: skip
        return grads[0], None, *grads[1:], of_weight, of_bias
