"""Attention between channels row by row, and its gradients: MDTA of one map, or from one to another.

The weights need q and k only as q kᵀ and as squared lengths, which are sums over pixels.

Shapes: B batch, C channels, H W pixels, P channels of a projection, n pixels of a strip, h heads,
c = C / h.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.layers.attention import fold_projection, gram_weights
from models.layers.cpu_strips.gradients import add_gradient, bordered, pair_up
from models.layers.cpu_strips.pixel_rows import (
    Branch,
    Norm,
    context_strips,
    pixels_first,
    pixels_last,
    row_strips,
    strip_images,
    strip_rows,
    wants_gradient,
)
from models.layers.pixel_sums import PixelSums


def channel_attention(
    maps: Sequence[Tensor],
    norm: Norm,
    branches: Sequence[Branch],
    temperature: Tensor,
    project_out: Tensor,
    sums: PixelSums,
) -> Tensor:
    """Return maps[0] plus its channel attention, B×C×H×W.

    Each map has its branch; what the branches give is q, k, v in this order: one map makes all
    three (MDTA), or one q and the other k and v (cross attention). With gradients a map is a whole
    picture: `sums` are not asked.
    """
    weights = [*norm, *(weight for branch in branches for weight in branch)]
    if wants_gradient(*maps, temperature, project_out, *weights):
        return _ChannelAttention.apply(temperature, project_out, *maps, *weights)
    inputs = [strip_images(x) for x in maps]  # B H W C each
    values = torch.empty_like(inputs[0])
    if (read := sums.known()) is None:
        read = sums.add(*_read(inputs, norm, branches, len(temperature), [values]))
    else:
        _fill_values(values, inputs[-1], norm, branches[-1])
    folded = fold_projection(project_out, gram_weights(read, temperature))  # B C C
    for image, value, matrix in zip(inputs[0], values, folded, strict=True):
        for rows in row_strips(value, value.shape[-1]):
            value[rows] = value[rows] @ matrix.t()
        value += image
    return pixels_first(values)


def _read(
    inputs: Sequence[Tensor],
    norm: Norm,
    branches: Sequence[Branch],
    num_heads: int,
    kept: Sequence[Tensor],
    projected: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q kᵀ B×h×c×c and the squared lengths B×h×c of q's and k's rows, for maps B×H×W×C.

    q, k and v, or the last of them, are written to `kept` B×H×W×C, and what they are made of to
    `projected`, where it is wanted.
    """
    size, _, _, channels = inputs[0].shape
    gram = inputs[0].new_zeros(size, num_heads, channels // num_heads, channels // num_heads)
    squares = inputs[0].new_zeros(2, size, channels)
    for i in range(size):
        images, keep = ([x[i] for x in maps] for maps in (inputs, projected))
        for rows, parts in _strips_of_parts(images, norm, branches, keep):
            q, k, _ = (part.to(gram.dtype) for part in parts)  # n C each
            for head, *of_head in zip(
                gram[i], *(x.chunk(num_heads, 1) for x in (q, k)), strict=True
            ):
                head.addmm_(of_head[0].t(), of_head[1])  # c c
            squares[0, i] += q.square().sum(0)
            squares[1, i] += k.square().sum(0)
            for whole, part in zip(kept, parts[-len(kept) :], strict=True):
                whole[i, rows] = part.view_as(whole[i, rows])
    q_squares, k_squares = squares.unflatten(2, (num_heads, -1))
    return gram, q_squares, k_squares


def _strips_of_parts(
    images: Sequence[Tensor], norm: Norm, branches: Sequence[Branch], keep: Sequence[Tensor]
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield rows of images H×W×C, and their q, k and v, n×C each."""
    channels = images[0].shape[-1]
    rows_px = strip_rows(images[0], 3 * channels)
    walks = [
        context_strips(image, norm, [branch], rows_px, keep[j : j + 1])
        for j, (image, branch) in enumerate(zip(images, branches, strict=True))
    ]
    for strips in zip(*walks, strict=True):
        yield strips[0][0], _parts([strip for _, (strip,) in strips], channels)


def _parts(maps: Sequence[Tensor], channels: int) -> list[Tensor]:
    """Cut maps …×P into parts of C channels: q, k, v."""
    return [part for x in maps for part in x.split(channels, dim=-1)]


def _fill_values(values: Tensor, inputs: Tensor, norm: Norm, branch: Branch) -> None:
    """Write v of maps B×H×W×C, the branch's last C channels, without making q and k."""
    project, kernel = (weight[-inputs.shape[-1] :] for weight in branch)
    for value, image in zip(values, inputs, strict=True):
        for rows, (part,) in context_strips(image, norm, [(project, kernel)]):
            value[rows] = part.view_as(value[rows])


class _ChannelAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, temperature: Tensor, project_out: Tensor, *maps_and_weights: Tensor
    ) -> Tensor:
        # Each map has a projection and a kernel; weight and bias of the norm are the two more.
        num_maps = (len(maps_and_weights) - 2) // 3
        maps, weights = maps_and_weights[:num_maps], maps_and_weights[num_maps:]
        norm, *branches = pair_up(weights)
        inputs = [pixels_last(x) for x in maps]  # B H W C each
        kept = [torch.empty_like(inputs[0]) for _ in range(3)]  # q, k, v
        learns = any((*ctx.needs_input_grad[:2], *ctx.needs_input_grad[2 + num_maps :]))
        projected = bordered(inputs[0], branches) if learns else []
        read = _read(inputs, norm, branches, len(temperature), kept, projected)
        out = torch.empty_like(inputs[0])
        folded = fold_projection(project_out, gram_weights(read, temperature))  # B C C
        for image, value, matrix, result in zip(inputs[0], kept[2], folded, out, strict=True):
            pixels, result = image.flatten(0, 1), result.flatten(0, 1)  # HW C each
            torch.addmm(pixels, value.flatten(0, 1), matrix.t(), out=result)
        ctx.num_maps = num_maps
        small = temperature, project_out, *weights
        ctx.save_for_backward(*inputs, *kept, *read, *small, *projected)
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        num_maps, saved = ctx.num_maps, iter(ctx.saved_tensors)
        inputs, kept, read = ([next(saved) for _ in range(n)] for n in (num_maps, 3, 3))
        small, weights = ([next(saved) for _ in range(n)] for n in (2, 2 + 2 * num_maps))
        projected, (norm, *branches) = list(saved), pair_up(weights)
        # What is added up over the pixels: of the weights, nothing where none learns.
        of_small = [torch.zeros_like(x) for x in small]
        sums = [torch.zeros_like(x) for x in weights] if projected else []
        grads = pixels_last(grad)
        # The first map has the residual.
        outs = [grads.clone(), *(torch.zeros_like(x) for x in inputs[1:])]
        for i, towards in enumerate(grads):
            parts = [x[i] for x in kept]  # H W C each
            fill = _gradient_of_parts(towards, parts, [x[i] for x in read], small, of_small)
            first = 0
            for j, (out, x, branch) in enumerate(zip(outs, inputs, branches, strict=True)):
                own = partial(fill, range(first, first := first + len(branch[1]) // len(norm[0])))
                whole = [maps[i] for maps in projected[j : j + 1]]
                of_map = [*sums[:2], *sums[2 + 2 * j : 4 + 2 * j]]  # the norm's, the branch's
                add_gradient(out[i], x[i], norm, [branch], own, whole, of_map)
        of_maps = map(pixels_first, outs)
        if not projected:
            return None, None, *of_maps, *(None for _ in weights)
        return *of_small, *of_maps, *sums


def _gradient_of_parts(
    grad: Tensor,
    parts: Sequence[Tensor],
    read: Sequence[Tensor],
    small: Sequence[Tensor],
    sums: Sequence[Tensor],
) -> Callable[[range, slice, Sequence[Tensor]], None]:
    """Return what writes the gradients of some of q, k, v (0, 1, 2) at some rows of an image.

    `read` is what `_read` returned for it, `small` are temperature and output projection; theirs are
    added to `sums`.
    """
    with torch.enable_grad():
        *leaves, temperature, project_out = (x.detach().requires_grad_() for x in (*read, *small))
        folded = fold_projection(project_out, gram_weights(leaves, temperature))  # C C
    towards = grad.flatten(0, 1).t() @ parts[2].flatten(0, 1)  # C C
    leaves += [temperature, project_out]
    d_gram, d_q, d_k, *of_small = torch.autograd.grad(folded, leaves, towards)
    for total, gradient in zip(sums, of_small, strict=True):
        total.add_(gradient)
    folded = folded.detach()

    def fill(wanted: range, rows: slice, maps: Sequence[Tensor]) -> None:
        q, k, _ = (part[rows].flatten(0, 1) for part in parts)  # n C each
        for part, out in zip(wanted, _parts(maps, grad.shape[-1]), strict=True):
            match part:
                case 0:
                    _by_head(out, q, k, d_gram.transpose(1, 2), 2 * d_q.flatten())
                case 1:
                    _by_head(out, k, q, d_gram, 2 * d_k.flatten())
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
