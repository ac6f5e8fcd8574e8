"""Blocks of which restoration transformers are made.

Shapes: B batch, C channels, H W pixels, N tokens, D token width, h heads, c = C / h.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below this length a query or key counts as zero (the guard of F.normalize).
_MIN_NORM = 1e-12


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, B×C×H×W to the same (spec, notation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel over its channels."""
        x = x.permute(0, 2, 3, 1)  # B H W C
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)  # B C H W


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


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention between channels instead of pixels (spec 1.3, MDTA; Restormer, Eq. 1).

    q, k, v and the result are B×C×H×W; `temperature` is h×1×1. q and k have unit length over the
    pixels; we divide the small Gram matrix by the lengths instead of the pixel-long rows.
    """
    num_heads = temperature.shape[0]
    height, width = v.shape[-2:]
    q, k, v = (x.flatten(2).unflatten(1, (num_heads, -1)) for x in (q, k, v))  # B h c HW
    lengths = _row_lengths(q) * _row_lengths(k).transpose(-2, -1)  # B h c c
    gram = q @ k.transpose(-2, -1) / lengths  # B h c c
    attention = (temperature * gram).softmax(dim=-1)
    return (attention @ v).flatten(1, 2).unflatten(2, (height, width))  # B C H W


def _row_lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_MIN_NORM)  # B h c 1


class SelfAttention(nn.Module):
    """MDTA: transposed self-attention with a depthwise 3×3 context, B×C×H×W (spec 1.3)."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_context = depthwise3x3(3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; the residual is the caller's."""
        q, k, v = self.qkv_context(self.qkv(x)).chunk(3, dim=1)  # B C H W each
        return self.project_out(channel_attention(q, k, v, self.temperature))


class GatedFeedForward(nn.Module):
    """GDFN: one half of the hidden channels gates the other, B×C×H×W (spec 1.3)."""

    def __init__(self, channels: int, *, expansion: float) -> None:
        super().__init__()
        hidden = int(expansion * channels)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.context = depthwise3x3(2 * hidden)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate; the residual is the caller's."""
        gate, value = self.context(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


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
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


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
