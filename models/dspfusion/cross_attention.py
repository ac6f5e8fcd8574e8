"""Channel attention between two maps of a level (spec 1.3).

Shapes: B batch, C channels, H W pixels, n pixels of a strip.
"""

import torch
from torch import Tensor, nn

from models.layers.attention import ChannelGram, attend, channel_weights, project_values
from models.layers.blocks import ChannelNorm, depthwise3x3, pointwise
from models.layers.cpu_strips import gradients as strip_gradients
from models.layers.cpu_strips.rows import (
    Branch,
    can_use_strips,
    context_strips,
    last_channels,
    pixels_first,
    strip_images,
    strip_rows,
)
from models.layers.pixel_sums import PixelSums


class CrossAttention(nn.Module):
    """Channel attention with queries of one map, keys and values of another (spec 1.3).

    Both maps are B×C×H×W and share one norm; the result is added to the first.
    """

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.norm = ChannelNorm(channels)
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.query_context = depthwise3x3(channels)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.key_value_context = depthwise3x3(2 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.sums = PixelSums()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Return x with what it found in `other`."""
        if strip_gradients.can_differentiate(self, x, other):
            norm = strip_gradients.Norm(self.norm.weight, self.norm.bias)
            branches, project_out = self._branches(), self.project_out.weight
            return strip_gradients.attend([x, other], norm, branches, self.temperature, project_out)
        if can_use_strips(x, other):
            pairs = zip(strip_images(x), strip_images(other), strict=True)
            return pixels_first(torch.stack([self._in_strips(*pair) for pair in pairs]))
        q = self.query_context(pointwise(self.norm(x), self.query.weight))
        kv = self.key_value_context(pointwise(self.norm(other), self.key_value.weight))
        k, v = kv.chunk(2, dim=1)
        weights = channel_weights(q, k, self.temperature, self.sums)
        return x + attend(v, weights, self.project_out.weight)

    def _branches(self) -> tuple[Branch, Branch]:
        """Of the map that asks, and of the other."""
        query = self.query.weight, self.query_context.weight
        return query, (self.key_value.weight, self.key_value_context.weight)

    def _in_strips(self, image: Tensor, other: Tensor) -> Tensor:
        """Attend from one image to another, H×W×C both."""
        query, key_value = self._branches()
        if known := self.sums.known():
            gram = ChannelGram(*known)
            values = last_channels(other, self.norm.last_axis, key_value)
        else:
            gram, values = self._sum_up(image, other, query, key_value)
        weights = gram.weights(self.temperature)
        return project_values(values, weights, self.project_out.weight).add_(image)

    def _sum_up(
        self, image: Tensor, other: Tensor, query: Branch, key_value: Branch
    ) -> tuple[ChannelGram, Tensor]:
        """Return the sums over the pixels, the picture's where this is a tile of it, and v H×W×C."""
        channels = image.shape[-1]
        gram = ChannelGram.zeros(channels, len(self.temperature), like=image)
        values = torch.empty_like(image)
        rows_px = strip_rows(image, 3 * channels)
        queries = context_strips(image, self.norm.last_axis, [query], rows_px)
        others = context_strips(other, self.norm.last_axis, [key_value], rows_px)
        for (rows, (q,)), (_, (kv,)) in zip(queries, others, strict=True):
            k, v = kv.chunk(2, dim=1)  # n C each
            gram.add(q, k)
            values[rows] = v.view_as(values[rows])
        return gram.over_picture(self.sums), values
