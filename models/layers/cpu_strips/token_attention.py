"""Pixels that attend to tokens, row by row at inference: no map of weights is ever whole.

Shapes: B batch, C channels, H W pixels, N tokens, h heads, n pixels of a strip.
"""

import torch
from torch import Tensor

from models.layers.attention import softmax_by_head
from models.layers.cpu_strips.pixel_rows import (
    Norm,
    normalise,
    pixels_first,
    row_strips,
    strip_images,
)


@torch.autocast("cpu", enabled=False)
def token_attention(
    x: Tensor, norm: Norm, keys: Tensor, contents: Tensor, bias: Tensor, *, num_heads: int
) -> Tensor:
    """Return x B×C×H×W plus what its normalised pixels find in keys and contents B×hN×C."""
    images = strip_images(x)  # B H W C
    # Under autocast they come rounded to bfloat16; the few products with them are not.
    keys, contents = keys.to(images.dtype), contents.to(images.dtype)
    out = torch.empty_like(images)
    for i, image in enumerate(images):
        for rows in row_strips(image, image.shape[-1]):
            pixels = normalise(image[rows], norm).flatten(0, 1)  # n C
            weights = softmax_by_head(keys[i] @ pixels.t(), num_heads)  # hN n
            content = torch.addmm(bias, weights.t(), contents[i])  # n C
            torch.add(image[rows], content.view_as(image[rows]), out=out[i, rows])
    return pixels_first(out)
