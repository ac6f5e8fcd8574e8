"""From the last features to an image: one head with the prior, or three without (spec 1.3).

A network may fold pixels into channels first, which its head unfolds again.

Shapes: B batch, C channels, H W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_gray
from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.levels import DecoderLayer, transformer_blocks


class FusionHead(nn.Module):
    """Refinement with the prior, then a 3×3 convolution to 3 channels (spec 1.3).

    Where the sources are joined there are twelve more, of `restored_sources`, and the drawn picture's
    share; all of these start at 0.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.refinement = DecoderLayer(
            config,
            channels=config.head_width,
            num_heads=config.num_heads[0],
            num_blocks=config.num_refinement_blocks,
        )
        self.fold = config.fold
        channels = (16 if config.joins_sources else 3) * config.fold**2
        self.output = nn.Conv2d(config.head_width, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight[3 * config.fold**2 :])

    def forward(self, x: Tensor, semantic_prior: Tensor) -> Tensor:
        """Map features B×(head width)×(H/k)×(W/k), k the fold, to B×3×H×W (or 16), before the skip."""
        head = self.output(self.refinement(x, semantic_prior))
        return head if self.fold == 1 else F.pixel_shuffle(head, self.fold)


def restored_sources(head: Tensor, ir: Tensor, vi: Tensor) -> tuple[Tensor, Tensor]:
    """Restore both sources, B×3×H×W, by twelve weights for each pixel, B×12×H×W: not the paper's.

    Grey and colour of the visible picture, and the infrared one, are each weighed with what they are when
    smoothed, and an offset is added: what undoes light, haze and contrast is itself smooth, noise gives way
    to a smoother picture, and blur to one from which that is taken away. All are 0 where nothing is to be
    undone. H and W are multiples of 4.
    """
    ir_weights, ir_offset, gray_weights, color_weights, offset = head.split([3, 1, 3, 2, 3], dim=1)
    gray, ir_gray = to_gray(vi), ir[:, :1]  # B 1 H W
    color = vi - gray
    own, smooth = color_weights.split(1, dim=1)
    restored = vi + offset + _weighed(gray, gray_weights)
    restored = torch.addcmul(torch.addcmul(restored, own, color), smooth, _smoothest(color))
    return (ir_gray + ir_offset + _weighed(ir_gray, ir_weights)).expand_as(restored), restored


def _weighed(gray: Tensor, weights: Tensor) -> Tensor:
    own, smooth, smoothest = weights.split(1, dim=1)
    near = F.avg_pool2d(gray, 3, stride=1, padding=1, count_include_pad=False)
    return torch.addcmul(torch.addcmul(own * gray, smooth, near), smoothest, _smoothest(gray))


def _smoothest(picture: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(picture, 4), scale_factor=4, mode="bilinear")


def fold_pixels(pictures: Tensor, fold: int) -> Tensor:
    """Fold squares of pixels of B×3×H×W into channels, B×3k²×⌈H/k⌉×⌈W/k⌉ of sizes that halve thrice."""
    return F.pixel_unshuffle(repeated_to_fold(pictures, fold), fold)


def repeated_to_fold(pictures: Tensor, fold: int) -> Tensor:
    """Repeat the last row and column where a size does not divide, and up to two of the least size."""
    least = 8 * fold
    sizes = pictures.shape[-2:]
    # Exported it is what repeats, though sizes that divide have nothing to repeat.
    if torch.compiler.is_exporting() or any(n % least or n < 2 * least for n in sizes):
        rows, columns = (_repeating_last(n, least, pictures.device) for n in sizes)
        pictures = pictures[:, :, rows][..., columns]
    return pictures


def first_pixels(pictures: Tensor, height: int, width: int) -> Tensor:
    """Crop B×C×H×W to its first rows and columns."""
    if torch.compiler.is_exporting():
        # Of a slice an export asks whether it is whole, and holds all sizes to the example's answer.
        rows, columns = (torch.arange(n, device=pictures.device) for n in (height, width))
        return pictures[:, :, rows][..., columns]
    return pictures[..., :height, :width]


def _repeating_last(length: int, multiple: int, device: torch.device) -> Tensor:
    # Twice at least: an export takes a map of one row for one that is spread over others.
    units = torch.sym_max((length + multiple - 1) // multiple, 2)
    return torch.arange(units * multiple, device=device).clamp(max=length - 1)


class ChannelGate(nn.Module):
    """Gate channels by their mean and maximum over the pixels, B×C×H×W (spec 1.3, three heads)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated features."""
        pooled = (x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True))
        mean, peak = (self.excite(F.relu(self.squeeze(p))) for p in pooled)  # B C 1 1
        return torch.sigmoid(mean + peak) * x


class RestorationHead(nn.Module):
    """One of three heads: an optional gate, blocks without prior, output (spec 1.3)."""

    def __init__(self, config: DSPFusionConfig, *, num_blocks: int, gated: bool) -> None:
        super().__init__()
        channels = config.head_width
        self.gate = ChannelGate(channels) if gated else nn.Identity()
        self.blocks = transformer_blocks(config, channels, config.num_heads[0], num_blocks)
        self.output = nn.Conv2d(channels, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features B×(head width)×H×W to B×3×H×W, before the skip."""
        return self.output(self.blocks(self.gate(x)))
