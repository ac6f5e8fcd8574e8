"""Blocks of the reconstruction: attention with an inner residual, text-guided attention.

Shapes: B batch, C channels, H W pixels, h heads, c = C / h, D numbers of a prompt.
"""

import torch
from torch import Tensor, nn

from models.devices import at_least_float32
from models.layers.attention import attend, channel_weights
from models.layers.blocks import ChannelNorm, GatedFeedForward, depthwise3x3, pointwise
from models.layers.pixel_sums import PixelSums
from models.lure.config import TEXT_WIDTH


class InnerResidualAttention(nn.Module):
    """MDTA with an inner residual: o = A v + g ⊙ v before the output projection (spec 3.3).

    g starts at 0, where the block is plain MDTA. Adapted from `layers.blocks.SelfAttention`; differs
    in g, and does not go by strips on a CPU.
    """

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.inner_gate = nn.Parameter(torch.zeros(channels))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_context = depthwise3x3(3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.sums = PixelSums()

    def forward(self, x: Tensor, norm: ChannelNorm) -> Tensor:
        """Return x plus what its normalised channels B×C×H×W find in each other."""
        projected = pointwise(norm(x), self.qkv.weight)  # B 3C H W
        q, k, v = self.qkv_context(projected).chunk(3, dim=1)  # B C H W each
        weights = channel_weights(q, k, self.temperature, self.sums)  # B h c c
        # A v + g ⊙ v = (A + diag g) v: no further map of the picture's size.
        gates = torch.diag_embed(self.inner_gate.unflatten(0, weights.shape[1:3]))  # h c c
        return at_least_float32(x) + attend(v, weights + gates, self.project_out.weight)


class TextGuidedAttention(nn.Module):
    """TGA: x + conv(m ⊙ (x − v)), m = σ(conv(q ⊙ k)), k and v from the prompt (spec 3.4).

    The last convolution starts at 0, where the block passes x on unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(TEXT_WIDTH, channels)
        self.value = nn.Linear(TEXT_WIDTH, channels)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Guide x B×C×H×W by prompts B×D."""
        k, v = self.key(text)[..., None, None], self.value(text)[..., None, None]  # B C 1 1
        gate = self.gate(self.query(x) * k).sigmoid()  # B C H W
        return x + self.project_out(gate * (x - v))


class PlainBlock(nn.Module):
    """Attention with inner residual and feed-forward, pre-norm and residual, B×C×H×W."""

    def __init__(self, channels: int, *, num_heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels)
        self.attention = InnerResidualAttention(channels, num_heads=num_heads)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels, expansion=ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined features."""
        x = self.attention(x, self.attention_norm)
        return self.feed_forward(x, self.feed_forward_norm)


class TextBlock(nn.Module):
    """The first block of an encoder's level: text guides between attention and feed-forward."""

    def __init__(self, channels: int, *, num_heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels)
        self.attention = InnerResidualAttention(channels, num_heads=num_heads)
        self.guidance = TextGuidedAttention(channels)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels, expansion=ffn_expansion)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return the features of x B×C×H×W, refined under prompts B×D."""
        x = self.guidance(self.attention(x, self.attention_norm), text)
        return self.feed_forward(x, self.feed_forward_norm)
