"""Strips of rows: when to use them, and how they go through a projection and its context.

A 1×1 projection to many channels and the 3×3 depthwise convolution after it need no more than
three rows at once. We send strips of rows through both and what follows, so that the wide maps stay
in the processor's cache and are never whole. Nothing is computed twice: a strip hands its last two
rows to the next.

Shapes: H W pixels of one image, C channels, P channels of a projection, n pixels of a strip.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers of all projections of a strip together: 4 MB, about what stays near one core.
_STRIP_NUMBERS = 1 << 20

# Weight and bias, C each, of a normalisation of pixels over their channels.
Norm = tuple[Tensor, Tensor]
# A 1×1 projection P×C×1×1 without bias, and the depthwise kernel P×1×3×3 after it.
Branch = tuple[Tensor, Tensor]


_ALLOWED = ContextVar("strips_allowed", default=True)


@contextmanager
def whole_maps() -> Iterator[None]:
    """Within, no layer goes by strips: what golden vectors and plain builds are compared with."""
    token = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def use_strips(*maps: Tensor, has_gradient: bool = True) -> bool:
    """Whether a layer goes through these maps by strips: on a CPU, in eager mode.

    An accelerator prefers few large kernels, and a loop over rows cannot be exported with a free
    height. While gradients are recorded the strips must have one (`has_gradient`); those that we have
    are of the maps' own number format, so not under autocast.
    """
    if torch.compiler.is_compiling() or any(x.device.type != "cpu" for x in maps):
        return False
    if not _ALLOWED.get():
        return False
    recorded = torch.is_grad_enabled()
    return not recorded or (has_gradient and not torch.is_autocast_enabled("cpu"))


def wants_gradient(*inputs: Tensor) -> bool:
    """Whether gradients towards some of a layer's maps or weights are recorded."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """Normalise the last axis of …×C."""
    return F.layer_norm(x, norm[0].shape, *norm)


def strip_dtype(image: Tensor) -> torch.dtype:
    """Number format of the wide maps of a strip: under autocast its own, else the image's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype


def strip_images(x: Tensor) -> Tensor:
    """Return B×C×H×W as images B×H×W×C of float32 at least.

    Under autocast a convolution may have made bfloat16 of it; norms, residuals and sums over pixels
    do not stand that (README, Precision).
    """
    return pixels_last(x).to(torch.promote_types(x.dtype, torch.float32))


def pixels_last(x: Tensor) -> Tensor:
    """Return B×C×H×W as B×H×W×C without gaps; a view of a channels-last map."""
    return x.permute(0, 2, 3, 1).contiguous()


def pixels_first(x: Tensor) -> Tensor:
    """Return B×H×W×C as a channels-last B×C×H×W, without a copy."""
    return x.permute(0, 3, 1, 2)


def strip_rows(image: Tensor, channels: int) -> int:
    """Rows of a strip of an image H×W×C that is to have `channels` channels."""
    height, width, _ = image.shape
    return min(height, max(2, _STRIP_NUMBERS // (width * channels)))


def row_strips(image: Tensor, channels: int) -> Iterator[slice]:
    """Cut an image's rows into strips."""
    step = strip_rows(image, channels)
    for start in range(0, image.shape[0], step):
        yield slice(start, min(start + step, image.shape[0]))


def context_strips(
    image: Tensor,
    norm: Norm,
    branches: Sequence[Branch],
    rows: int | None = None,
    keep: Sequence[Tensor] = (),
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Normalise, project and convolve an image H×W×C, strip by strip of `rows` rows.

    Yields the strip's rows and, for each branch, its n×P values. What is projected is written to
    `keep`, where it is wanted: H+2×W×P, with a row of zeros around.
    """
    rows = rows or strip_rows(image, sum(len(project) for project, _ in branches))
    dtype = strip_dtype(image)
    matrices = [project.flatten(1).t().to(dtype) for project, _ in branches]  # C P

    def fill(new: slice, maps: Sequence[Tensor]) -> None:
        normed = normalise(image[new], norm).flatten(0, 1).to(dtype)  # n C
        for projected, matrix in zip(maps, matrices, strict=True):
            torch.mm(normed, matrix, out=projected)

    return convolved_strips(image, fill, [kernel for _, kernel in branches], rows, keep)


def convolved_strips(
    image: Tensor,
    fill: Callable[[slice, Sequence[Tensor]], None],
    kernels: Sequence[Tensor],
    rows: int,
    keep: Sequence[Tensor] = (),
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Convolve maps with their depthwise kernels P×1×3×3; without `keep` they are never whole.

    `fill` writes some rows' values n×P of each map; it is asked for each row of `image` H×W×C once,
    in order. Yields a strip's rows and what the convolutions made of each map, n×P.
    """
    height, width, _ = image.shape
    # A window holds a strip of a map with the row above and the row below.
    dtype = strip_dtype(image)
    windows = (
        [] if keep else [image.new_zeros(rows + 2, width, len(k), dtype=dtype) for k in kernels]
    )
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # The row above and the strip's first are there already, but for the first strip.
        known = 2 if start else 1
        new = slice(start - 1 + known, min(stop + 1, height))
        end = known + new.stop - new.start
        for window in windows:
            if start:
                window[:2] = window[rows:]
            window[end:] = 0  # Below the image.
        cut = [x[start : stop + 2] for x in keep] or [w[: stop - start + 2] for w in windows]
        fill(new, [window[known:end].flatten(0, 1) for window in cut])
        yield slice(start, stop), list(map(_convolve, cut, kernels))


def _convolve(window: Tensor, kernel: Tensor) -> Tensor:
    """3×3 depthwise convolution of (rows+2)×W×P, zeros at the sides only: n×P."""
    # Not `unsqueeze`: with its stride torch does not see a channels-last map, and copies it.
    x = pixels_first(window.view(1, *window.shape))  # 1 P rows+2 W
    x = F.conv2d(x, kernel, padding=(0, 1), groups=len(kernel))
    return pixels_last(x).flatten(0, 2)  # n P
