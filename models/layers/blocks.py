"""Blocks of which restoration transformers are made.

Shapes: B batch, C channels, H W pixels, N tokens, D token width, h heads, c = C / h.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.devices import at_least_float32
from models.layers import cpu_strips
from models.layers.attention import attend, channel_weights
from models.layers.pixel_sums import PixelSums


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, B×C×H×W to the same (spec, notation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel over its channels."""
        pixels = x.permute(0, 2, 3, 1)  # B H W C
        normed = F.layer_norm(pixels, self.weight.shape, self.weight, self.bias)
        return normed.permute(0, 3, 1, 2)  # B C H W


class TokenMixer(nn.Module):
    """One MLP-mixer block, pre-norm, B×N×D to the same (spec 1.1).

    Tokens are mixed through a hidden layer of N/2, channels through one of `expansion`·D.
    """

    def __init__(self, num_tokens: int, width: int, *, expansion: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.token_mlp = _mlp(num_tokens, num_tokens // 2)
        self.channel_norm = nn.LayerNorm(width)
        self.channel_mlp = _mlp(width, expansion * width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix along the tokens, then along the channels, both residual."""
        mixed = self.token_mlp(self.token_norm(x).transpose(1, 2))  # B D N
        x = x + mixed.transpose(1, 2)  # B N D
        return x + self.channel_mlp(self.channel_norm(x))


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1×1 convolution without bias, as the matrix product that it is for channels-last maps."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """The 3×3 depthwise convolution of a P×1×3×3 kernel."""
    return F.conv2d(x, kernel, padding=1, groups=len(kernel))


class SelfAttention(nn.Module):
    """MDTA: transposed self-attention with a depthwise 3×3 context, B×C×H×W (spec 1.3)."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_context = depthwise3x3(3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.sums = PixelSums()

    def forward(self, x: Tensor, norm: ChannelNorm) -> Tensor:
        """Return x plus what its normalised channels find in each other."""
        project_out = self.project_out.weight
        if cpu_strips.use_strips(x):
            branch, affine = (self.qkv.weight, self.qkv_context.weight), (norm.weight, norm.bias)
            return cpu_strips.channel_attention(
                [x], affine, [branch], self.temperature, project_out, self.sums
            )
        projected = pointwise(norm(x), self.qkv.weight)  # B 3C H W
        q, k, v = self.qkv_context(projected).chunk(3, dim=1)  # B C H W each
        weights = channel_weights(q, k, self.temperature, self.sums)
        # Its memory layout is that of the first operand: channels last.
        return attend(v, weights, project_out) + at_least_float32(x)


class GatedFeedForward(nn.Module):
    """GDFN: one half of the hidden channels gates the other, B×C×H×W (spec 1.3)."""

    def __init__(self, channels: int, *, expansion: float) -> None:
        super().__init__()
        hidden = int(expansion * channels)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.context = depthwise3x3(2 * hidden)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor, norm: ChannelNorm | None) -> Tensor:
        """Return x plus its normalised, gated self; without a norm, its gated self."""
        # Gate and value apart, so that each of their maps lies without gaps.
        project, context = self.project_in.weight.chunk(2), self.context.weight.chunk(2)
        branches = list(zip(project, context, strict=True))
        if norm is not None and cpu_strips.use_strips(x):
            affine = norm.weight, norm.bias
            return cpu_strips.feed_forward(x, affine, branches, self.project_out.weight)
        normed = x if norm is None else norm(x)
        gate, value = (depthwise(pointwise(normed, w), kernel) for w, kernel in branches)
        return pointwise(F.gelu(gate) * value, self.project_out.weight) + x


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, both pre-norm and residual, B×C×H×W (spec 1.3)."""

    def __init__(self, channels: int, *, num_heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels)
        self.attention = SelfAttention(channels, num_heads=num_heads)
        self.feed_forward_norm = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels, expansion=ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined features."""
        x = self.attention(x, self.attention_norm)
        return self.feed_forward(x, self.feed_forward_norm)


class Downsample(nn.Module):
    """Halve the size, double the channels: B×C×H×W to B×2C×H/2×W/2 (spec 1.3, Down)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then move 2×2 pixels into channels."""
        return F.pixel_unshuffle(self.conv(x), 2)


class Upsample(nn.Module):
    """Double the size, halve the channels: B×C×H×W to B×C/2×2H×2W (spec 1.3, Up)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.smooth = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce the channels, interpolate with aligned corners, smooth."""
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.smooth(x)


def depthwise3x3(channels: int) -> nn.Conv2d:
    """Return a 3×3 convolution that keeps the channels apart, without bias."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def split_pair(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """Split 2B×… into its first and second B×…

    Not `chunk`: the number of chunks of a dynamic batch would fix its size in `torch.export`.
    """
    first, second = stacked.unflatten(0, (2, -1)).unbind(0)
    return first, second
