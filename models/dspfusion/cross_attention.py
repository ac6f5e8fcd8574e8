"""Channel attention between two maps of a level (spec 1.3).

Shapes: B batch, C channels, H W pixels.
"""

import torch
from torch import Tensor, nn

from models.devices import at_least_float32
from models.layers import cpu_strips
from models.layers.attention import attend, channel_weights
from models.layers.blocks import ChannelNorm, depthwise3x3, pointwise
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
        if cpu_strips.use_strips(x, other):
            norm, project_out = (self.norm.weight, self.norm.bias), self.project_out.weight
            query = self.query.weight, self.query_context.weight
            key_value = self.key_value.weight, self.key_value_context.weight
            return cpu_strips.channel_attention(
                [x, other], norm, [query, key_value], self.temperature, project_out, self.sums
            )
        q = self.query_context(pointwise(self.norm(x), self.query.weight))
        kv = self.key_value_context(pointwise(self.norm(other), self.key_value.weight))
        k, v = kv.chunk(2, dim=1)
        weights = channel_weights(q, k, self.temperature, self.sums)
        return at_least_float32(x) + attend(v, weights, self.project_out.weight)
