"""Frozen layers, differentiated towards their inputs alone, row by row in both directions.

Stage II trains the denoiser through a fusion network that does not move. Autograd would keep every
map in between, or make it again; here the forward pass goes by strips as at inference and keeps what
the derivative reads (q, k, v; gate and value), and the backward pass goes by strips, too.

Shapes: B batch, C channels, H W pixels, P channels of a projection, m hidden channels, n pixels of a
strip, h heads, c = C / h.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import ChannelGram, fold_projection
from models.strips import (
    Branch,
    can_use_strips,
    context_strips,
    convolved_strips,
    pixels_first,
    pixels_last,
    strip_rows,
)

_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Norm:
    """Weight and bias, C each, of a normalisation of pixels over their channels."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis of …×C."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _NORM_EPSILON)

    def gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return the gradient towards x …×C from the one towards the normalised x."""
        shape, affine = list(self.weight.shape), (self.weight, self.bias)
        _, mean, rstd = torch.native_layer_norm(x, shape, *affine, _NORM_EPSILON)
        wanted = [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        return backward(grad.view_as(x), x, shape, mean, rstd, *affine, wanted)[0]


def is_frozen(module: nn.Module, *maps: Tensor) -> bool:
    """Whether a module's inputs need gradients and its weights do not, where strips are used."""
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if any(p.requires_grad for p in module.parameters()):
        return False
    with torch.no_grad():
        return any(x.requires_grad for x in maps) and can_use_strips(*maps)


def feed_forward(x: Tensor, norm: Norm, branches: Sequence[Branch], project_out: Tensor) -> Tensor:
    """Return x + GDFN(norm(x)), B×C×H×W, for the branches gate and value and project_out C×m×1×1."""
    return _FeedForward.apply(x, norm, branches, project_out.flatten(1))


def attend(
    maps: Sequence[Tensor],
    norm: Norm,
    branches: Sequence[Branch],
    temperature: Tensor,
    project_out: Tensor,
) -> Tensor:
    """Return maps[0] plus its channel attention, B×C×H×W.

    Each map has its branch; what the branches give is q, k, v in this order: one map makes all
    three (MDTA), or one q and the other k and v (cross attention).
    """
    return _Attention.apply(norm, branches, temperature, project_out, *maps)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Norm, branches: Sequence[Branch], project_out: Tensor
    ) -> Tensor:
        images = pixels_last(x)  # B H W C
        hidden = _whole(images, branches)  # B H W m each
        out = torch.empty_like(images)
        for i, image in enumerate(images):
            for rows, (gate, value) in context_strips(image, norm, branches):
                _keep(hidden, i, rows, (gate, value))
                pixels, result = image[rows].flatten(0, 1), out[i, rows].flatten(0, 1)  # n C
                torch.addmm(pixels, F.gelu(gate).mul_(value), project_out.t(), out=result)
        ctx.save_for_backward(images, *hidden)
        ctx.layer = norm, branches, project_out
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, gates, values = ctx.saved_tensors
        norm, branches, project_out = ctx.layer
        grads = pixels_last(grad)
        out = grads.clone()
        for i, image in enumerate(images):
            fill = partial(_fill_hidden, grads[i], gates[i], values[i], project_out)
            _add_gradient(out[i], image, norm, branches, fill)
        return pixels_first(out), None, None, None


def _fill_hidden(
    grad: Tensor,
    gates: Tensor,
    values: Tensor,
    project_out: Tensor,
    rows: slice,
    maps: Sequence[Tensor],
) -> None:
    """Write the gradients of gate and value, n×m each, from the one of the output H×W×C."""
    gate, value = gates[rows].flatten(0, 1), values[rows].flatten(0, 1)
    hidden = grad[rows].flatten(0, 1) @ project_out
    torch.mul(hidden, F.gelu(gate), out=maps[1])
    maps[0].copy_(torch.ops.aten.gelu_backward(hidden.mul_(value), gate))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: Norm,
        branches: Sequence[Branch],
        temperature: Tensor,
        project_out: Tensor,
        *maps: Tensor,
    ) -> Tensor:
        inputs = [pixels_last(x) for x in maps]  # B H W C each
        kept = [whole for x, b in zip(inputs, branches, strict=True) for whole in _whole(x, [b])]
        out = torch.empty_like(inputs[0])
        grams = []
        for i, images in enumerate(zip(*inputs, strict=True)):
            gram = _read(i, images, norm, branches, kept, len(temperature))
            folded = fold_projection(project_out, gram.weights(temperature))  # C C
            value = _parts([x[i].flatten(0, 1) for x in kept], images[0].shape[-1])[2]  # HW C
            result = out[i].flatten(0, 1)
            torch.addmm(images[0].flatten(0, 1), value, folded.t(), out=result)
            grams.append(gram)
        ctx.save_for_backward(*inputs, *kept)
        ctx.layer = norm, branches, temperature, project_out
        ctx.grams = grams
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, branches, temperature, project_out = ctx.layer
        inputs, kept = (ctx.saved_tensors[: len(branches)], ctx.saved_tensors[len(branches) :])
        grads = pixels_last(grad)
        # The first map has the residual.
        outs = [grads.clone(), *(torch.zeros_like(x) for x in inputs[1:])]
        for i, gram in enumerate(ctx.grams):
            parts = _parts([x[i] for x in kept], grads.shape[-1])  # H W C each
            fill = _gradient_of_parts(grads[i], parts, gram, temperature, project_out)
            first = 0
            for out, x, branch in zip(outs, inputs, branches, strict=True):
                num_parts = len(branch[1]) // grads.shape[-1]
                own = partial(fill, range(first, first + num_parts))
                _add_gradient(out[i], x[i], norm, [branch], own)
                first += num_parts
        return (None, None, None, None, *map(pixels_first, outs))


def _read(
    index: int,
    images: Sequence[Tensor],
    norm: Norm,
    branches: Sequence[Branch],
    kept: Sequence[Tensor],
    num_heads: int,
) -> ChannelGram:
    """Keep q, k and v of images H×W×C; return the Gram matrix of q and k."""
    channels = images[0].shape[-1]
    gram = ChannelGram.zeros(channels, num_heads, like=images[0])
    rows_px = strip_rows(images[0], 3 * channels)
    walks = [
        context_strips(image, norm, [branch], rows_px)
        for image, branch in zip(images, branches, strict=True)
    ]
    for strips in zip(*walks, strict=True):
        maps = [strip for _, (strip,) in strips]  # n P each
        _keep(kept, index, strips[0][0], maps)
        q, k, _ = _parts(maps, channels)
        gram.add(q, k)
    return gram


def _gradient_of_parts(
    grad: Tensor,
    parts: Sequence[Tensor],
    gram: ChannelGram,
    temperature: Tensor,
    project_out: Tensor,
) -> Callable[[range, slice, Sequence[Tensor]], None]:
    """Return what writes the gradients of some of q, k, v (0, 1, 2) at some rows."""
    value = parts[2].flatten(0, 1)  # HW C
    with torch.enable_grad():
        leaf = ChannelGram(gram.gram.requires_grad_(), gram.squares.requires_grad_())
        folded = fold_projection(project_out, leaf.weights(temperature))  # C C
    towards = grad.flatten(0, 1).t() @ value  # C C
    d_gram, d_squares = torch.autograd.grad(folded, (leaf.gram, leaf.squares), towards)
    d_lengths = 2 * d_squares  # 2 C
    folded = folded.detach()

    def fill(wanted: range, rows: slice, maps: Sequence[Tensor]) -> None:
        q, k, _ = (part[rows].flatten(0, 1) for part in parts)  # n C each
        for part, out in zip(wanted, _parts(maps, grad.shape[-1]), strict=True):
            match part:
                case 0:
                    _by_head(out, q, k, d_gram.transpose(1, 2), d_lengths[0])
                case 1:
                    _by_head(out, k, q, d_gram, d_lengths[1])
                case _:
                    torch.mm(grad[rows].flatten(0, 1), folded, out=out)

    return fill


def _by_head(out: Tensor, own: Tensor, other: Tensor, d_gram: Tensor, d_length: Tensor) -> None:
    """Write the gradient of q or k n×C: through q kᵀ (h×c×c) and through its own lengths (C)."""
    num_heads = len(d_gram)
    pieces = zip(out.chunk(num_heads, 1), other.chunk(num_heads, 1), d_gram, strict=True)
    for out_head, other_head, gradient in pieces:
        torch.mm(other_head, gradient, out=out_head)
    out.addcmul_(own, d_length)


def _add_gradient(
    out: Tensor,
    image: Tensor,
    norm: Norm,
    branches: Sequence[Branch],
    fill: Callable[[slice, Sequence[Tensor]], None],
) -> None:
    """Add to `out` H×W×C the gradient towards the image that `context_strips` went through.

    `fill` writes the gradients of what it gave, n×P each.
    """
    kernels = [kernel.flip(2, 3) for _, kernel in branches]
    rows_px = strip_rows(image, sum(map(len, kernels)))
    for rows, maps in convolved_strips(image, fill, kernels, rows_px):
        normed = maps[0] @ branches[0][0].flatten(1)  # n C
        for projected, (project, _) in zip(maps[1:], branches[1:], strict=True):
            normed.addmm_(projected, project.flatten(1))
        out[rows] += norm.gradient(normed, image[rows])


def _whole(images: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
    """Whole maps B×H×W×P for what each branch gives."""
    return [images.new_empty(*images.shape[:3], len(kernel)) for _, kernel in branches]


def _keep(whole: Sequence[Tensor], index: int, rows: slice, strips: Sequence[Tensor]) -> None:
    for x, strip in zip(whole, strips, strict=True):
        x[index, rows] = strip.view_as(x[index, rows])


def _parts(maps: Sequence[Tensor], channels: int) -> list[Tensor]:
    """Cut maps …×P into parts of C channels: q, k, v."""
    return [part for x in maps for part in x.split(channels, dim=-1)]
