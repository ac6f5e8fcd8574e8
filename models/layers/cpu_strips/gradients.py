"""Layers that are differentiated row by row, towards their inputs and their weights.

Autograd would keep every map in between, or make all of it again. Here the forward pass goes by strips
as at inference and keeps what the derivative reads (q, k, v; gate and value), and the backward pass goes
by strips, too. What needs no gradient costs none: Stage II trains the denoiser through a fusion network
that does not move.

Shapes: B batch, C channels, H W pixels, P channels of a projection, m hidden channels, n pixels of a
strip, h heads, c = C / h.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.attention import ChannelGram, fold_projection
from models.layers.cpu_strips.rows import (
    Branch,
    context_strips,
    convolved_strips,
    eager_on_cpu,
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

    def gradient(self, grad: Tensor, x: Tensor, sums: "_WeightSums | None") -> Tensor:
        """Return the gradient towards x …×C from the one towards the normalised x; add its own."""
        shape, affine = list(self.weight.shape), (self.weight, self.bias)
        _, mean, rstd = torch.native_layer_norm(x, shape, *affine, _NORM_EPSILON)
        wanted = [True, sums is not None, sums is not None]
        backward = torch.ops.aten.native_layer_norm_backward
        towards_x, weight, bias = backward(grad.view_as(x), x, shape, mean, rstd, *affine, wanted)
        if sums is not None:
            sums.norm.weight.add_(weight)
            sums.norm.bias.add_(bias)
        return towards_x


def can_differentiate(module: nn.Module, *maps: Tensor) -> bool:
    """Whether gradients of a module on these maps are wanted and can go by strips."""
    if not eager_on_cpu(*maps) or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return any(x.requires_grad for x in (*maps, *module.parameters()))


def feed_forward(x: Tensor, norm: Norm, branches: Sequence[Branch], project_out: Tensor) -> Tensor:
    """Return x + GDFN(norm(x)), B×C×H×W, for the branches gate and value and project_out C×m×1×1."""
    weights = [weight for branch in branches for weight in branch]
    return _FeedForward.apply(x, project_out.flatten(1), norm.weight, norm.bias, *weights)


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
    weights = [weight for branch in branches for weight in branch]
    return _Attention.apply(temperature, project_out, norm.weight, norm.bias, *maps, *weights)


@dataclass
class _WeightSums:
    """Gradients towards a norm's and some branches' weights, added up over the pixels."""

    norm: Norm
    branches: list[Branch]

    @classmethod
    def zeros(cls, norm: Norm, branches: Sequence[Branch]) -> Self:
        """Return the sums over no pixels."""
        zeros = [
            (torch.zeros_like(project), torch.zeros_like(kernel)) for project, kernel in branches
        ]
        return cls(Norm(torch.zeros_like(norm.weight), torch.zeros_like(norm.bias)), zeros)

    def only(self, index: int) -> Self:
        """Return the same sums with one branch alone."""
        return type(self)(self.norm, [self.branches[index]])

    def flat(self) -> list[Tensor]:
        """Return them in the order of the functions' inputs."""
        weights = [weight for branch in self.branches for weight in branch]
        return [self.norm.weight, self.norm.bias, *weights]


def _pairs(weights: Sequence[Tensor]) -> list[Branch]:
    return list(zip(weights[::2], weights[1::2], strict=True))


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, project_out: Tensor, scale: Tensor, shift: Tensor, *weights: Tensor
    ) -> Tensor:
        images, norm, branches = pixels_last(x), Norm(scale, shift), _pairs(weights)  # B H W C
        hidden = _whole(images, branches)  # B H W m each
        projected = _bordered(images, branches, any(ctx.needs_input_grad[1:]))
        out = torch.empty_like(images)
        for i, image in enumerate(images):
            keep = [x[i] for x in projected]
            for rows, (gate, value) in context_strips(image, norm, branches, keep=keep):
                _keep(hidden, i, rows, (gate, value))
                pixels, result = image[rows].flatten(0, 1), out[i, rows].flatten(0, 1)  # n C
                torch.addmm(pixels, F.gelu(gate).mul_(value), project_out.t(), out=result)
        ctx.save_for_backward(images, *hidden, project_out, scale, shift, *weights, *projected)
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, gates, values, project_out, scale, shift, *others = ctx.saved_tensors
        weights, projected = others[:4], others[4:]
        norm, branches = Norm(scale, shift), _pairs(weights)
        learns = any(ctx.needs_input_grad[1:])
        sums = _WeightSums.zeros(norm, branches) if learns else None
        towards_out = torch.zeros_like(project_out) if learns else None
        grads = pixels_last(grad)
        out = grads.clone()
        for i, image in enumerate(images):
            fill = partial(_fill_hidden, grads[i], gates[i], values[i], project_out, towards_out)
            _add_gradient(out[i], image, norm, branches, fill, [x[i] for x in projected], sums)
        of_weights = sums.flat() if sums else [None] * (2 + len(weights))
        return pixels_first(out), towards_out, *of_weights


def _fill_hidden(
    grad: Tensor,
    gates: Tensor,
    values: Tensor,
    project_out: Tensor,
    towards_out: Tensor | None,
    rows: slice,
    maps: Sequence[Tensor],
) -> None:
    """Write the gradients of gate and value, n×m each, from the one of the output H×W×C.

    Add the one of `project_out` to `towards_out` where it is wanted.
    """
    gate, value = gates[rows].flatten(0, 1), values[rows].flatten(0, 1)
    pixels = grad[rows].flatten(0, 1)
    hidden, opened = pixels @ project_out, F.gelu(gate)
    torch.mul(hidden, opened, out=maps[1])
    maps[0].copy_(torch.ops.aten.gelu_backward(hidden.mul_(value), gate))
    if towards_out is not None:
        towards_out.addmm_(pixels.t(), opened.mul_(value))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        temperature: Tensor,
        project_out: Tensor,
        scale: Tensor,
        shift: Tensor,
        *maps_and_weights: Tensor,
    ) -> Tensor:
        # Each map has two weights, a projection and a kernel.
        num_maps = len(maps_and_weights) // 3
        maps, weights = maps_and_weights[:num_maps], maps_and_weights[num_maps:]
        norm, branches = Norm(scale, shift), _pairs(weights)
        inputs = [pixels_last(x) for x in maps]  # B H W C each
        kept = [whole for x, b in zip(inputs, branches, strict=True) for whole in _whole(x, [b])]
        learns = any((*ctx.needs_input_grad[:4], *ctx.needs_input_grad[4 + num_maps :]))
        projected = [
            whole
            for x, branch in zip(inputs, branches, strict=True)
            for whole in _bordered(x, [branch], learns)
        ]
        out = torch.empty_like(inputs[0])
        ctx.grams = []
        for i, images in enumerate(zip(*inputs, strict=True)):
            gram = _read(i, images, norm, branches, kept, projected, len(temperature))
            folded = fold_projection(project_out, gram.weights(temperature))  # C C
            value = _parts([x[i].flatten(0, 1) for x in kept], images[0].shape[-1])[2]  # HW C
            result = out[i].flatten(0, 1)
            torch.addmm(images[0].flatten(0, 1), value, folded.t(), out=result)
            ctx.grams.append(gram)
        ctx.num_maps, ctx.learns = num_maps, learns
        small = temperature, project_out, scale, shift
        ctx.save_for_backward(*inputs, *kept, *small, *weights, *projected)
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        num_maps = ctx.num_maps
        inputs, kept = ctx.saved_tensors[:num_maps], ctx.saved_tensors[num_maps : 2 * num_maps]
        temperature, project_out, scale, shift, *others = ctx.saved_tensors[2 * num_maps :]
        weights, projected = others[: 2 * num_maps], others[2 * num_maps :]
        norm, branches = Norm(scale, shift), _pairs(weights)
        sums = _WeightSums.zeros(norm, branches) if ctx.learns else None
        small = [torch.zeros_like(temperature), torch.zeros_like(project_out)]
        grads = pixels_last(grad)
        # The first map has the residual.
        outs = [grads.clone(), *(torch.zeros_like(x) for x in inputs[1:])]
        for i, gram in enumerate(ctx.grams):
            parts = _parts([x[i] for x in kept], grads.shape[-1])  # H W C each
            fill = _gradient_of_parts(grads[i], parts, gram, (temperature, project_out), small)
            first = 0
            for j, (out, x, branch) in enumerate(zip(outs, inputs, branches, strict=True)):
                num_parts = len(branch[1]) // grads.shape[-1]
                own = partial(fill, range(first, first + num_parts))
                mine = [whole[i] for whole in projected[j : j + 1]]
                _add_gradient(out[i], x[i], norm, [branch], own, mine, sums and sums.only(j))
                first += num_parts
        maps = map(pixels_first, outs)
        if sums is None:
            return (None, None, None, None, *maps, *(None for _ in weights))
        towards_scale, towards_shift, *of_weights = sums.flat()
        return (*small, towards_scale, towards_shift, *maps, *of_weights)


def _read(
    index: int,
    images: Sequence[Tensor],
    norm: Norm,
    branches: Sequence[Branch],
    kept: Sequence[Tensor],
    projected: Sequence[Tensor],
    num_heads: int,
) -> ChannelGram:
    """Keep q, k and v of images H×W×C, and what they are made of; return the Gram matrix of q and k."""
    channels = images[0].shape[-1]
    gram = ChannelGram.zeros(channels, num_heads, like=images[0])
    rows_px = strip_rows(images[0], 3 * channels)
    walks = [
        context_strips(image, norm, [branch], rows_px, [x[index] for x in projected[j : j + 1]])
        for j, (image, branch) in enumerate(zip(images, branches, strict=True))
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
    small: tuple[Tensor, Tensor],
    sums: Sequence[Tensor],
) -> Callable[[range, slice, Sequence[Tensor]], None]:
    """Return what writes the gradients of some of q, k, v (0, 1, 2) at some rows.

    `small` are temperature and output projection; theirs are added to `sums`.
    """
    value = parts[2].flatten(0, 1)  # HW C
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (gram.gram, gram.squares, *small)]
        weights = ChannelGram(leaves[0], leaves[1]).weights(leaves[2])
        folded = fold_projection(leaves[3], weights)  # C C
    towards = grad.flatten(0, 1).t() @ value  # C C
    d_gram, d_squares, *of_small = torch.autograd.grad(folded, leaves, towards)
    for total, gradient in zip(sums, of_small, strict=True):
        total.add_(gradient)
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
    projected: Sequence[Tensor],
    sums: _WeightSums | None,
) -> None:
    """Add to `out` H×W×C the gradient towards the image that `context_strips` went through.

    `fill` writes the gradients of what it gave, n×P each. Those towards the weights are added to
    `sums`; they read what was projected, H+2×W×P each.
    """
    kernels = [kernel.flip(2, 3) for _, kernel in branches]
    rows_px = strip_rows(image, sum(map(len, kernels)))
    if sums is not None:
        fill = _adding_kernels(fill, projected, sums)
    for rows, maps in convolved_strips(image, fill, kernels, rows_px):
        towards = maps[0] @ branches[0][0].flatten(1)  # n C
        for grad, (project, _) in zip(maps[1:], branches[1:], strict=True):
            towards.addmm_(grad, project.flatten(1))
        if sums is not None:
            normed = norm(image[rows]).flatten(0, 1)  # n C
            for grad, (total, _) in zip(maps, sums.branches, strict=True):
                total.flatten(1).addmm_(grad.t(), normed)
        out[rows] += norm.gradient(towards, image[rows], sums)


def _adding_kernels(
    fill: Callable[[slice, Sequence[Tensor]], None],
    projected: Sequence[Tensor],
    sums: _WeightSums,
) -> Callable[[slice, Sequence[Tensor]], None]:
    """Let `fill` add the gradients towards the kernels, too, which read the projections H+2×W×P."""

    def both(rows: slice, maps: Sequence[Tensor]) -> None:
        fill(rows, maps)
        if rows.stop > rows.start:  # the last strip's were asked for with the one before
            for whole, grad, (_, total) in zip(projected, maps, sums.branches, strict=True):
                total.add_(_of_kernel(whole[rows.start : rows.stop + 2], grad, total))

    return both


def _of_kernel(window: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
    """Gradient towards a depthwise kernel P×1×3×3, from (rows+2)×W×P and what came of it, n×P."""
    x = pixels_first(window.unsqueeze(0))  # 1 P rows+2 W
    towards = pixels_first(grad.view(1, -1, window.shape[1], window.shape[2]))  # 1 P rows W
    around = ([1, 1], [0, 1], [1, 1], False, [0, 0], len(kernel))
    backward = torch.ops.aten.convolution_backward
    return backward(towards, x, kernel, None, *around, [False, True, False])[1]


def _whole(images: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
    """Whole maps B×H×W×P for what each branch gives."""
    return [images.new_empty(*images.shape[:3], len(kernel)) for _, kernel in branches]


def _bordered(images: Tensor, branches: Sequence[Branch], wanted: bool) -> list[Tensor]:
    """Whole maps B×H+2×W×P of what each branch projects, a row of zeros around; none if not wanted."""
    if not wanted:
        return []
    size, height, width, _ = images.shape
    maps = [images.new_empty(size, height + 2, width, len(kernel)) for _, kernel in branches]
    for x in maps:
        x[:, 0] = x[:, -1] = 0
    return maps


def _keep(whole: Sequence[Tensor], index: int, rows: slice, strips: Sequence[Tensor]) -> None:
    for x, strip in zip(whole, strips, strict=True):
        x[index, rows] = strip.view_as(x[index, rows])


def _parts(maps: Sequence[Tensor], channels: int) -> list[Tensor]:
    """Cut maps …×P into parts of C channels: q, k, v."""
    return [part for x in maps for part in x.split(channels, dim=-1)]
