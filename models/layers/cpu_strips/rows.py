"""The wide layers of restoration transformers, row by row: the same maths in a bounded memory.

A 1×1 projection to many channels and the 3×3 depthwise convolution after it need no more than
three rows at once. At inference we send strips of rows through both and what follows, so that the
wide maps stay in the processor's cache and are never whole. Nothing is computed twice: a strip
hands its last two rows to the next.

Shapes: H W pixels of one image, C channels, P channels of a projection, n pixels of a strip.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers of all projections of a strip together: 4 MB, about what stays near one core.
_STRIP_NUMBERS = 1 << 20

# A 1×1 projection P×C×1×1 without bias, and the depthwise kernel P×1×3×3 after it.
Branch = tuple[Tensor, Tensor]


def eager_on_cpu(*maps: Tensor) -> bool:
    """Whether strips are of use: on a CPU, and when nobody needs a graph.

    An accelerator prefers few large kernels, and a loop over rows cannot be exported with a free
    height.
    """
    return not torch.compiler.is_compiling() and all(x.device.type == "cpu" for x in maps)


def can_use_strips(*maps: Tensor) -> bool:
    """Whether to go by strips that keep nothing: where they are of use and nobody needs gradients."""
    return eager_on_cpu(*maps) and not torch.is_grad_enabled()


def strip_dtype(image: Tensor) -> torch.dtype:
    """Number format of the wide maps of a strip: under autocast its own, else the image's."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype


def strip_images(x: Tensor) -> Tensor:
    """Return B×C×H×W as images B×H×W×C of float32 at least.

    Under autocast a convolution may have made bfloat16 of it; norms, residuals and sums over pixels
    do not stand that (README, Precision).
    """
    return pixels_last(x).to(torch.promote_types(x.dtype, torch.float32))


def multiply_into(out: Tensor, x: Tensor, matrix: Tensor) -> None:
    """Write x @ matrix; under autocast the product is rounded, `out` keeps its format."""
    if x.dtype == out.dtype:
        torch.mm(x, matrix, out=out)
    else:
        out.copy_(x @ matrix.to(x.dtype))


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
    norm: Callable[[Tensor], Tensor],
    branches: Sequence[Branch],
    rows: int | None = None,
    keep: Sequence[Tensor] | None = None,
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Normalise, project and convolve an image H×W×C, strip by strip of `rows` rows.

    `norm` normalises the last axis. Yields the strip's rows and, for each branch, its n×P values.
    What is projected is written to `keep`, where it is wanted: H+2×W×P, with a row of zeros around.
    """
    rows = rows or strip_rows(image, sum(len(project) for project, _ in branches))
    dtype = strip_dtype(image)
    matrices = [project.flatten(1).t().to(dtype) for project, _ in branches]  # C P

    def fill(new: slice, maps: Sequence[Tensor]) -> None:
        normed = norm(image[new]).flatten(0, 1).to(dtype)  # n C
        for projected, matrix in zip(maps, matrices, strict=True):
            torch.mm(normed, matrix, out=projected)

    return convolved_strips(image, fill, [kernel for _, kernel in branches], rows, keep)


def last_channels(image: Tensor, norm: Callable[[Tensor], Tensor], branch: Branch) -> Tensor:
    """What `context_strips` makes of an image H×W×C in the last C channels of a branch, whole.

    Those are the values of an attention: its queries and keys are not made.
    """
    out = torch.empty_like(image)
    project, kernel = (weight[-image.shape[-1] :] for weight in branch)
    for rows, (last,) in context_strips(image, norm, [(project, kernel)]):
        out[rows] = last.view_as(out[rows])
    return out


def convolved_strips(
    image: Tensor,
    fill: Callable[[slice, Sequence[Tensor]], None],
    kernels: Sequence[Tensor],
    rows: int,
    keep: Sequence[Tensor] | None = None,
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
        cut = [x[start : stop + 2] for x in keep or ()] or [w[: stop - start + 2] for w in windows]
        fill(new, [window[known:end].flatten(0, 1) for window in cut])
        yield slice(start, stop), list(map(_convolve, cut, kernels))


def map_images(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change each image of B×C×H×W on its own, as H×W×C."""
    images = [change(image) for image in strip_images(x)]
    return pixels_first(images[0].unsqueeze(0) if len(images) == 1 else torch.stack(images))


def _convolve(window: Tensor, kernel: Tensor) -> Tensor:
    """3×3 depthwise convolution of (rows+2)×W×P, zeros at the sides only: n×P."""
    # Not `unsqueeze`: with its stride torch does not see a channels-last map, and copies it.
    x = pixels_first(window.view(1, *window.shape))  # 1 P rows+2 W
    x = F.conv2d(x, kernel, padding=(0, 1), groups=len(kernel))
    return pixels_last(x).flatten(0, 2)  # n P
