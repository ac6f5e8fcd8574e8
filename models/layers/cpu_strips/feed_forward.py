"""The gated feed-forward (GDFN) row by row, and its gradients.

Shapes: B batch, C channels, H W pixels, m hidden channels, n pixels of a strip.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.cpu_strips.gradients import add_gradient, bordered, pair_up
from models.layers.cpu_strips.pixel_rows import (
    Branch,
    Norm,
    context_strips,
    pixels_first,
    pixels_last,
    strip_images,
    wants_gradient,
)


def feed_forward(x: Tensor, norm: Norm, branches: Sequence[Branch], project_out: Tensor) -> Tensor:
    """Return x + GDFN(norm(x)), B×C×H×W, for the branches gate and value and project_out C×m×1×1."""
    weights = [*norm, *(weight for branch in branches for weight in branch)]
    project = project_out.flatten(1)  # C m
    if wants_gradient(x, project, *weights):
        return _FeedForward.apply(x, project, *weights)
    return pixels_first(_gate(strip_images(x), norm, branches, project))


def _gate(
    images: Tensor,
    norm: Norm,
    branches: Sequence[Branch],
    project_out: Tensor,
    kept: Sequence[Tensor] = (),
    projected: Sequence[Tensor] = (),
) -> Tensor:
    """Gate images B×H×W×C; keep gate and value B×H×W×m, and what they are made of, if asked."""
    out = torch.empty_like(images)
    for i, image in enumerate(images):
        walk = context_strips(image, norm, branches, keep=[x[i] for x in projected])
        for rows, (gate, value) in walk:
            for whole, strip in zip(kept, (gate, value), strict=False):
                whole[i, rows] = strip.view_as(whole[i, rows])
            result, pixels = out[i, rows].flatten(0, 1), image[rows].flatten(0, 1)  # n C
            gated = F.gelu(gate).mul_(value)
            if kept:
                torch.addmm(pixels, gated, project_out.t(), out=result)
            else:  # Under autocast the product is rounded, the sum is not.
                torch.add(gated @ project_out.t(), pixels, out=result)
    return out


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, project_out: Tensor, *weights: Tensor) -> Tensor:
        images, (norm, *branches) = pixels_last(x), pair_up(weights)  # B H W C
        kept = [images.new_empty(*images.shape[:3], len(kernel)) for _, kernel in branches]
        projected = bordered(images, branches) if any(ctx.needs_input_grad[1:]) else []
        out = _gate(images, norm, branches, project_out, kept, projected)
        ctx.save_for_backward(images, *kept, project_out, *weights, *projected)
        return pixels_first(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, gates, values, project_out, *others = ctx.saved_tensors
        weights, projected = others[:6], others[6:]
        norm, *branches = pair_up(weights)
        # What is added up over the pixels: nothing where no weight learns.
        sums = [torch.zeros_like(x) for x in (project_out, *weights)] if projected else []
        grads = pixels_last(grad)
        out = grads.clone()
        for i, image in enumerate(images):
            fill = partial(_fill_hidden, grads[i], gates[i], values[i], project_out, sums[:1])
            add_gradient(out[i], image, norm, branches, fill, [x[i] for x in projected], sums[1:])
        return pixels_first(out), *(sums or (None,) * 7)


def _fill_hidden(
    grad: Tensor,
    gates: Tensor,
    values: Tensor,
    project_out: Tensor,
    sums: Sequence[Tensor],
    rows: slice,
    maps: Sequence[Tensor],
) -> None:
    """Write the gradients of gate and value, n×m each, from the one of the output H×W×C.

    Add the one of `project_out` to `sums`, where it is wanted.
    """
    gate, value = gates[rows].flatten(0, 1), values[rows].flatten(0, 1)
    pixels = grad[rows].flatten(0, 1)
    hidden, opened = pixels @ project_out, F.gelu(gate)
    torch.mul(hidden, opened, out=maps[1])
    maps[0].copy_(torch.ops.aten.gelu_backward(hidden.mul_(value), gate))
    for total in sums:
        total.addmm_(pixels.t(), opened.mul_(value))
