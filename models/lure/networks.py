"""Encoder, decoder and fusion of the reconstruction (spec 3).

Shapes: B batch, C channels of a level, H W pixels of a level, D numbers of a prompt. Latents are four
maps, level 1 first: C = 32, 64, 128, 256 at strides 1, 2, 4, 8 in full size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.blocks import Downsample
from models.lure.blocks import PlainBlock, TextBlock
from models.lure.config import LUREConfig

Latents = Sequence[Tensor]


class Encoder(nn.Module):
    """A camera's pictures B×3×H×W and prompts B×D to latents; H and W are multiples of 8."""

    def __init__(self, config: LUREConfig) -> None:
        super().__init__()
        widths = config.level_widths
        self.embed = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.downs = nn.ModuleList([nn.Identity(), *(Downsample(width) for width in widths[:3])])
        self.guided = nn.ModuleList(TextBlock(config, level) for level in range(len(widths)))
        self.levels = nn.ModuleList(
            _plain_blocks(config, level, depth - 1) for level, depth in enumerate(config.num_blocks)
        )

    def forward(self, picture: Tensor, text: Tensor) -> Latents:
        """Return the four latents."""
        latents = []
        x = self.embed(picture)  # B C H W
        for down, guided, level in zip(self.downs, self.guided, self.levels, strict=True):
            x = level(guided(down(x), text))  # B C H W of the level
            latents.append(x)
        return latents


class Decoder(nn.Module):
    """Latents to a picture B×3×H×W in (0, 1); nothing of the degraded picture goes around them."""

    def __init__(self, config: LUREConfig) -> None:
        super().__init__()
        ups, joins, levels = [], [], []
        for level, (width, deeper) in enumerate(pairwise(config.level_widths)):
            ups.append(nn.Conv2d(deeper, 2 * deeper, 3, padding=1, bias=False))
            joins.append(nn.Conv2d(2 * width, width, 1, bias=False))
            levels.append(_plain_blocks(config, level, config.num_blocks[level]))
        self.ups, self.joins = nn.ModuleList(ups), nn.ModuleList(joins)
        self.levels = nn.ModuleList(levels)
        self.refinement = _plain_blocks(config, 0, config.num_refinement_blocks)
        self.head = nn.Conv2d(config.width, 3, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        """Decode, the deepest level first."""
        *shallow, x = latents
        layers = list(zip(self.ups, self.joins, self.levels, shallow, strict=True))
        for up, join, level, latent in reversed(layers):
            x = F.pixel_shuffle(up(x), 2)  # B C 2H 2W
            x = level(join(torch.cat([x, latent], dim=1)))
        return self.head(self.refinement(x)).sigmoid()


def _plain_blocks(config: LUREConfig, level: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(PlainBlock(config, level) for _ in range(depth)))


class FusionModule(nn.Module):
    """Weigh the two cameras' latents B×C×H×W of a level by channel and pixel (spec 3.6)."""

    def __init__(self, config: LUREConfig, level: int) -> None:
        super().__init__()
        channels = config.level_widths[level]
        layers = (nn.Linear(2 * channels, channels // 2), nn.ReLU())
        self.channel = nn.Sequential(*layers, nn.Linear(channels // 2, 2 * channels))
        self.spatial = nn.Conv2d(4, 2, 7, padding=3)
        self.block = PlainBlock(config, level)

    def forward(self, ir: Tensor, vi: Tensor) -> Tensor:
        """Return the fused latent."""
        weights = self.weights(ir, vi)  # B 2 C H W
        return self.block(weights[:, 0] * ir + weights[:, 1] * vi)

    def weights(self, ir: Tensor, vi: Tensor) -> Tensor:
        """Weights B×2×C×H×W of infrared and visible; they sum to 1 over the cameras."""
        means = torch.cat([ir, vi], dim=1).mean(dim=(2, 3))  # B 2C
        by_channel = self.channel(means).unflatten(1, (2, -1))[..., None, None]  # B 2 C 1 1
        maps = [f(x) for x in (ir, vi) for f in (_channel_mean, _channel_max)]  # B 1 H W each
        by_pixel = self.spatial(torch.cat(maps, dim=1)).unsqueeze(2)  # B 2 1 H W
        return (by_channel + by_pixel).softmax(dim=1)


def _channel_mean(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)


def _channel_max(x: Tensor) -> Tensor:
    return x.amax(dim=1, keepdim=True)


def fusion_modules(config: LUREConfig) -> nn.ModuleList:
    """One fusion module a level."""
    return nn.ModuleList(FusionModule(config, level) for level in range(len(config.num_blocks)))
