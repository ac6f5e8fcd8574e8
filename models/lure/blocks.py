"""Blocks of the reconstruction: attention with an inner residual, text-guided attention.

Shapes: B batch, C channels, H W pixels, h heads, c = C / h, D numbers of a prompt.
"""

import torch
from torch import Tensor, nn

from models.devices import at_least_float32
from models.layers.attention import attend, channel_weights
from models.layers.blocks import ChannelNorm, GatedFeedForward, depthwise3x3, pointwise
from models.layers.pixel_sums import PixelSums
from models.lure.config import TEXT_WIDTH, LUREConfig


class InnerResidualAttention(nn.Module):
    """MDTA with an inner residual: o = A v + g ⊙ v before the output projection (spec 3.3).

    g starts at 0, where the block is plain MDTA. Adapted from `layers.blocks.SelfAttention`; differs
    in g, and does not go by strips on a CPU.
    """

    inner_gate: nn.Parameter | None

    def __init__(self, channels: int, num_heads: int, *, inner_residual: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        # Where it is None there is no inner residual: the ablation.
        gate = nn.Parameter(torch.zeros(channels)) if inner_residual else None
        self.register_parameter("inner_gate", gate)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_context = depthwise3x3(3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.sums = PixelSums()

    def forward(self, x: Tensor, norm: ChannelNorm | None) -> Tensor:
        """Return x plus what its channels B×C×H×W, normalised if there is a norm, find in each other."""
        projected = pointwise(x if norm is None else norm(x), self.qkv.weight)  # B 3C H W
        q, k, v = self.qkv_context(projected).chunk(3, dim=1)  # B C H W each
        weights = channel_weights(q, k, self.temperature, self.sums)  # B h c c
        if self.inner_gate is not None:
            # A v + g ⊙ v = (A + diag g) v: no further map of the picture's size.
            gates = self.inner_gate.unflatten(0, weights.shape[1:3])  # h c
            weights = weights + torch.diag_embed(gates)  # B h c c
        return at_least_float32(x) + attend(v, weights, self.project_out.weight)


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


class FeatureModulation(nn.Module):
    """FiLM, the ablation of text-guided attention: x · (1 + γ) + β, both from the prompt.

    Both start at 0, where the block passes x on unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(TEXT_WIDTH, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Guide x B×C×H×W by prompts B×D."""
        scale, shift = self.affine(text)[..., None, None].chunk(2, dim=1)  # B C 1 1 each
        return x * (1 + scale) + shift


class PlainBlock(nn.Module):
    """Attention with inner residual and feed-forward, B×C×H×W of a level (0 is the first)."""

    def __init__(self, config: LUREConfig, level: int) -> None:
        super().__init__()
        channels = config.level_widths[level]
        self.norm_first = config.norm == "pre"
        self.attention_norm = ChannelNorm(channels)
        self.attention = _attention(config, level)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels, expansion=config.ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined features."""
        x = _normed(self.attention, self.attention_norm, x, first=self.norm_first)
        return _normed(self.feed_forward, self.feed_forward_norm, x, first=self.norm_first)


class TextBlock(nn.Module):
    """The first block of an encoder's level: text guides between attention and feed-forward."""

    def __init__(self, config: LUREConfig, level: int) -> None:
        super().__init__()
        channels = config.level_widths[level]
        self.norm_first = config.norm == "pre"
        self.attention_norm = ChannelNorm(channels)
        self.attention = _attention(config, level)
        guidance = TextGuidedAttention if config.guidance == "attention" else FeatureModulation
        self.guidance = guidance(channels)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels, expansion=config.ffn_expansion)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return the features of x B×C×H×W, refined under prompts B×D."""
        x = _normed(self.attention, self.attention_norm, x, first=self.norm_first)
        x = self.guidance(x, text)
        return _normed(self.feed_forward, self.feed_forward_norm, x, first=self.norm_first)


def _attention(config: LUREConfig, level: int) -> InnerResidualAttention:
    channels, num_heads = config.level_widths[level], config.num_heads[level]
    return InnerResidualAttention(channels, num_heads, inner_residual=config.inner_residual)


def _normed(layer: nn.Module, norm: ChannelNorm, x: Tensor, *, first: bool) -> Tensor:
    """x plus what a layer makes of it: of the normalised x, or (the ablation) all of it normalised."""
    result: Tensor = layer(x, norm) if first else norm(layer(x, None))
    return result
