"""What the hand-written gradients of all strips share: back through context, projection and norm.

Autograd would keep every map in between, or make all of it again. Here the forward pass goes by strips
as at inference and keeps what the derivative reads (q, k, v; gate and value), and the backward pass goes
by strips, too. What needs no gradient costs none: Stage II trains the denoiser through a fusion network
that does not move.

Shapes: B batch, C channels, H W pixels, P channels of a projection, n pixels of a strip.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.layers.cpu_strips.pixel_rows import (
    Branch,
    Norm,
    convolved_strips,
    normalise,
    pixels_first,
    strip_rows,
)

_NORM_EPSILON = 1e-5


def pair_up(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair weight and bias of a norm, projection and kernel of each branch, as they were flattened."""
    return list(zip(weights[::2], weights[1::2], strict=True))


def bordered(images: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
    """Return maps B×H+2×W×P for what each branch projects of B×H×W×C, a row of zeros around."""
    size, height, width, _ = images.shape
    maps = [images.new_empty(size, height + 2, width, len(kernel)) for _, kernel in branches]
    for x in maps:
        x[:, 0] = x[:, -1] = 0
    return maps


def add_gradient(
    out: Tensor,
    image: Tensor,
    norm: Norm,
    branches: Sequence[Branch],
    fill: Callable[[slice, Sequence[Tensor]], None],
    projected: Sequence[Tensor],
    sums: Sequence[Tensor],
) -> None:
    """Add to `out` H×W×C the gradient towards the image that `context_strips` went through.

    `fill` writes the gradients of what it gave, n×P each. Those towards the weights are added to
    `sums`, which are as `pair_up` takes them, or empty where no weight learns; they read what was
    `projected`, H+2×W×P each.
    """
    kernels = [kernel.flip(2, 3) for _, kernel in branches]
    of_norm, of_projects, of_kernels = sums[:2], sums[2::2], sums[3::2]

    def fill_and_sum(rows: slice, maps: Sequence[Tensor]) -> None:
        fill(rows, maps)
        if rows.stop > rows.start:  # the last strip's were asked for with the one before
            for total, whole, grad in zip(of_kernels, projected, maps, strict=bool(sums)):
                total.add_(_of_kernel(whole[rows.start : rows.stop + 2], grad, total))

    for rows, maps in convolved_strips(
        image, fill_and_sum, kernels, strip_rows(image, sum(map(len, kernels)))
    ):
        towards = maps[0] @ branches[0][0].flatten(1)  # n C
        for grad, (project, _) in zip(maps[1:], branches[1:], strict=True):
            towards.addmm_(grad, project.flatten(1))
        if sums:
            normed = normalise(image[rows], norm).flatten(0, 1)  # n C
            for total, grad in zip(of_projects, maps, strict=True):
                total.flatten(1).addmm_(grad.t(), normed)
        out[rows] += _through_norm(towards, image[rows], norm, of_norm)


def _through_norm(grad: Tensor, x: Tensor, norm: Norm, sums: Sequence[Tensor]) -> Tensor:
    """Return the gradient towards x …×C from the one towards the normalised x; add the norm's own."""
    shape = [x.shape[-1]]
    _, mean, rstd = torch.native_layer_norm(x, shape, *norm, _NORM_EPSILON)
    wanted = [True, bool(sums), bool(sums)]
    backward = torch.ops.aten.native_layer_norm_backward
    towards_x, *own = backward(grad.view_as(x), x, shape, mean, rstd, *norm, wanted)
    for total, gradient in zip(sums, own, strict=False):
        total.add_(gradient)
    return towards_x


def _of_kernel(window: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
    """Gradient towards a depthwise kernel P×1×3×3, from (rows+2)×W×P and what came of it, n×P."""
    x = pixels_first(window.unsqueeze(0))  # 1 P rows+2 W
    towards = pixels_first(grad.view(1, -1, window.shape[1], window.shape[2]))  # 1 P rows W
    around = ([1, 1], [0, 1], [1, 1], False, [0, 0], len(kernel))
    backward = torch.ops.aten.convolution_backward
    return backward(towards, x, kernel, None, *around, [False, True, False])[1]
