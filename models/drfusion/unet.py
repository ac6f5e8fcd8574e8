"""The network of all steps: one encoder, a decoder for the noise and one for the weight (spec 3).

Shapes: B batch, C channels, W width, H W pixels (even), D = 4 W width of the time embedding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.drfusion.config import GATE_REDUCTION, SIZE_MULTIPLE_PX, DRFusionConfig
from models.layers import cpu_strips

_MULTIPLIERS = (1, 2, 4, 8)
_TIME_FACTOR = 4


class UNet(nn.Module):
    """Noise B×3×H×W and the infrared weight B×1×H×W in (0, 1) of a chain state (spec 3)."""

    def __init__(self, config: DRFusionConfig) -> None:
        super().__init__()
        width = config.width
        self.time_embed = nn.Sequential(
            nn.Linear(width, _TIME_FACTOR * width),
            nn.SiLU(),
            nn.Linear(_TIME_FACTOR * width, _TIME_FACTOR * width),
        )
        widths = [width * multiplier for multiplier in _MULTIPLIERS]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.encoder = _encoder(widths, config)
        self.bottleneck = nn.ModuleList(
            [ResidualBlock(widths[-1], widths[-1], config) for _ in range(2)]
        )
        self.noise_decoder = Decoder(widths, config, num_outputs=3)
        self.weight_decoder = Decoder(widths, config, num_outputs=1)

    def forward(self, x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        """Return noise and weight of the state B×3×H×W at `timestep` T…1. Asserts even sides."""
        assert not any(side % SIZE_MULTIPLE_PX for side in x.shape[-2:]), "sides must be even"
        if cpu_strips.use_strips(x):
            # There and so, its convolutions need no copies: a quarter faster at full size.
            x = x.contiguous(memory_format=torch.channels_last)
        time = self.time_embed(sinusoid(timestep, self.stem.out_channels, x))  # 1 D
        x, skips = self._encode(self.stem(x), time)
        for block in self.bottleneck:
            x = block(x, time)
        weight = self.weight_decoder(x, skips, time).sigmoid()  # B 1 H W
        return self.noise_decoder(x, skips, time), weight  # B 3 H W

    def _encode(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The deepest map, and the skips of all levels, the finest first (spec 3.4)."""
        skips = []
        for block in self.encoder:
            x = block(x, time)
            if isinstance(block, Down):
                skips.append(x)
        return x, [*skips, x]


def _encoder(widths: list[int], config: DRFusionConfig) -> nn.ModuleList:
    blocks: list[nn.Module] = []
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        blocks += [ResidualBlock(before, width, config), ResidualBlock(width, width, config)]
        if level < len(widths) - 1:
            blocks.append(Down(width))
    return nn.ModuleList(blocks)


class Decoder(nn.Module):
    """From the deepest map to `num_outputs` channels of full size (spec 3.5)."""

    def __init__(self, widths: list[int], config: DRFusionConfig, *, num_outputs: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList([SkipGate(width) for width in widths])
        blocks: list[nn.Module] = []
        ups = [*reversed(widths), widths[0]]
        for place in range(len(widths)):
            before, width = ups[place : place + 2]
            blocks += [ResidualBlock(before, width, config), ResidualBlock(width, width, config)]
            if place > 0:
                blocks.append(Up(width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.GroupNorm(config.num_groups, widths[0])
        self.head = nn.Conv2d(widths[0], num_outputs, 3, padding=1)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
        """Return B×C×H×W before a last activation."""
        remaining = list(zip(self.gates, skips, strict=True))
        x = _add_skip(x, remaining)
        for place, block in enumerate(self.blocks):
            if isinstance(block, Up):
                x = block(x, remaining[-1][1].shape[-2:] if remaining else None)
            else:
                x = block(x, time)
            # The deepest level has no up-sampling; after the last one no skip is left.
            if remaining and (isinstance(block, Up) or place == 1):
                x = _add_skip(x, remaining)
        return self.head(F.silu(self.norm(x)))


def _add_skip(x: Tensor, remaining: list[tuple[nn.Module, Tensor]]) -> Tensor:
    """Add the deepest skip that is left, through its gate."""
    gate, skip = remaining.pop()
    added: Tensor = x + gate(skip)
    return added


class ResidualBlock(nn.Module):
    """Two convolutions with the time embedding between them (spec 3.2)."""

    def __init__(self, channels_in: int, channels_out: int, config: DRFusionConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.num_groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(_TIME_FACTOR * config.width, channels_out)
        self.norm2 = nn.GroupNorm(config.num_groups, channels_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return B×C×H×W; `time` is 1×D."""
        shift = self.time(F.silu(time))[..., None, None]
        if cpu_strips.use_strips(x, has_gradient=cpu_strips.is_worth_training(self.conv1)):
            dropout = self.dropout.p if self.training else 0.0
            h = cpu_strips.normed_convolution(x, self.norm1, self.conv1) + shift
            h = cpu_strips.normed_convolution(h, self.norm2, self.conv2, dropout=dropout)
        else:
            h = self.conv1(F.silu(self.norm1(x))) + shift
            h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + self.shortcut(x)


class SkipGate(nn.Module):
    """A skip times a gate for each channel and one for each pixel (spec 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.excite = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)
        self.spatial = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W."""
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)  # B C 1 1
        gate = self._mlp(mean) + self._mlp(largest)
        return x * gate.sigmoid() * self.spatial(x).sigmoid()

    def _mlp(self, pooled: Tensor) -> Tensor:
        return self.excite(F.relu(self.squeeze(pooled)))


class Down(nn.Module):
    """Half the size, rounded up (spec 3.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return B×C×⌈H/2⌉×⌈W/2⌉; the time plays no part."""
        return self.conv(x)


class Up(nn.Module):
    """Twice the size, or one less (spec 3.5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None) -> Tensor:
        """Return B×C×h×w of `size`, 2H×2W by default.

        What the release crops at the bottom and right is not computed here: so `torch.export` need not
        decide whether there is something to crop.
        """
        height, width = x.shape[-2:]
        h, w = size or (2 * height, 2 * width)
        padding = (h - 2 * height + 1, w - 2 * width + 1)
        conv = self.conv
        return F.conv_transpose2d(
            x, conv.weight, conv.bias, stride=2, padding=1, output_padding=padding
        )


def sinusoid(timestep: int, width: int, like: Tensor) -> Tensor:
    """The embedding 1×`width` of a step, of the type and device of `like`; cosines first (spec 3.1)."""
    half = width // 2
    places = torch.arange(half, dtype=like.dtype, device=like.device)
    angles = timestep * torch.exp(-math.log(10_000) * places / half)
    return torch.cat([angles.cos(), angles.sin()])[None]
