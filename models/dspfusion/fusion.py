"""The restoration and fusion transformer (spec 1.3).

Shapes: B batch, C channels of a level, H W pixels of a level, N prior tokens of a level,
D prior width, h heads, c = C / h. A batch of 2B holds the infrared images first, then the visible.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.guidance import PriorGuidedFusion, PriorPyramid
from models.dspfusion.heads import (
    FusionHead,
    RestorationHead,
    first_pixels,
    fold_pixels,
    repeated_to_fold,
    restored_sources,
)
from models.dspfusion.levels import DecoderLayer, EncoderLayer
from models.layers.blocks import Downsample, Upsample
from models.losses import brighter_source

_NUM_LEVELS = 4


class Restored(NamedTuple):
    """The fused picture in [0, 1] and both restored sources, B×3×H×W each.

    Three heads keep all in (0, 1); sources that are joined may be a little outside before they are.
    """

    fused: Tensor
    ir: Tensor
    vi: Tensor


class FusionNetwork(nn.Module):
    """Restore and fuse a degraded pair with its priors (spec 1.3).

    `ir` and `vi` are B×3×H×W in [0, 1], H and W multiples of 8; the degradation priors B×N×128,
    the semantic prior B×N×256 in the full size. The fused image is B×3×H×W in (0, 1). A prior that
    the configuration cuts off is not read. With a `fold` the maps are that much smaller.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.semantic_pyramid = PriorPyramid(config, config.semantic_prior_width)
        self.degradation_pyramid = PriorPyramid(config, config.degradation_prior_width)
        self.fold = config.fold
        self.patch_embed = nn.Conv2d(3 * config.fold**2, config.width, 3, padding=1, bias=False)
        widths = config.level_widths
        self.encoders = nn.ModuleList(EncoderLayer(config, i) for i in range(_NUM_LEVELS))
        self.downs = nn.ModuleList(Downsample(width) for width in widths[:-1])
        self.fusions = nn.ModuleList(
            PriorGuidedFusion(
                width,
                config.semantic_prior_width,
                num_tokens=num_tokens,
                convolution=config.fusion_convolution,
            )
            for width, num_tokens in zip(widths, config.level_tokens, strict=True)
        )
        self.ups = nn.ModuleList(Upsample(width) for width in widths[1:])
        self.reductions = nn.ModuleList(_reduction(config, i) for i in range(_NUM_LEVELS - 1))
        self.decoders = nn.ModuleList(_decoder(config, i) for i in range(_NUM_LEVELS - 1))
        # How the maps lie in memory, which changes no weight; `jobs.bench model` measures the other one.
        self.memory_format = torch.channels_last
        self.three_heads, self.joins_sources = config.three_heads, config.joins_sources
        if config.three_heads:
            self.fused_head = RestorationHead(config, num_blocks=2, gated=False)
            self.ir_head = RestorationHead(config, num_blocks=1, gated=True)
            self.vi_head = RestorationHead(config, num_blocks=1, gated=True)
        else:
            self.head = FusionHead(config)

    def forward(
        self, ir: Tensor, vi: Tensor, degradation_prior: Tensor, semantic_prior: Tensor
    ) -> Tensor:
        """Return the fused image; `degradation_prior` is 2B×N×D, infrared first."""
        if self.joins_sources:
            return self.restore(ir, vi, degradation_prior, semantic_prior).fused
        x = self._features(ir, vi, degradation_prior, semantic_prior)
        head = self.fused_head(x) if self.three_heads else self.head(x, semantic_prior)
        return _to_image(head[..., : vi.shape[-2], : vi.shape[-1]], vi)

    def restore(
        self, ir: Tensor, vi: Tensor, degradation_prior: Tensor, semantic_prior: Tensor
    ) -> Restored:
        """Return the fused and both restored images; of three heads, or of joined sources."""
        assert self.three_heads or self.joins_sources, "this network does not restore the sources"
        x = self._features(ir, vi, degradation_prior, semantic_prior)
        if self.joins_sources:
            height, width = vi.shape[-2:]
            whole = (repeated_to_fold(source, self.fold) for source in (ir, vi))
            pictures = _joined(self.head(x, semantic_prior), *whole)
            return Restored(*(first_pixels(picture, height, width) for picture in pictures))
        return Restored(
            fused=_to_image(self.fused_head(x), vi),
            ir=_to_image(self.ir_head(x), ir),
            vi=_to_image(self.vi_head(x), vi),
        )

    def _features(
        self, ir: Tensor, vi: Tensor, degradation_prior: Tensor, semantic_prior: Tensor
    ) -> Tensor:
        semantic = self.semantic_pyramid(semantic_prior)  # 4 x B N D
        degradation = self.degradation_pyramid(degradation_prior)  # 4 x 2B N D
        pair = torch.cat([ir, vi])  # 2B 3 H W
        if self.fold > 1:
            pair = fold_pixels(pair, self.fold)
        pair = pair.contiguous(memory_format=self.memory_format)
        fused = self._encode(pair, semantic, degradation)
        x = fused[-1]  # B 8C H/8 W/8
        for level in reversed(range(_NUM_LEVELS - 1)):
            x = torch.cat([self.ups[level](x), fused[level]], dim=1)
            x = self.decoders[level](self.reductions[level](x), semantic[level])
        return x  # B 2C H W, or C with `level1_reduction`

    def _encode(
        self, pair: Tensor, semantic: Sequence[Tensor], degradation: Sequence[Tensor]
    ) -> list[Tensor]:
        """Encode both modalities of 2B×3×H×W at once; return the fused features of each level."""
        x = self.patch_embed(pair)  # 2B C H W
        fused = []
        for level in range(_NUM_LEVELS):
            both = torch.cat([semantic[level], semantic[level]])  # 2B N D
            x = self.encoders[level](x, both, degradation[level])
            fused.append(self.fusions[level](x, semantic[level]))
            if level < _NUM_LEVELS - 1:
                x = self.downs[level](x)
        return fused


def _reduction(config: DSPFusionConfig, level: int) -> nn.Module:
    # In the code level 1 keeps the 2C channels of the concatenation (spec 1.7, "level 1 decoder").
    width = config.level_widths[level]
    kept = level == 0 and not config.level1_reduction
    return nn.Identity() if kept else nn.Conv2d(2 * width, width, 1, bias=False)


def _decoder(config: DSPFusionConfig, level: int) -> DecoderLayer:
    return DecoderLayer(
        config,
        channels=config.head_width if level == 0 else config.level_widths[level],
        num_heads=config.num_heads[level],
        num_blocks=config.num_blocks[level],
    )


def _joined(head: Tensor, ir: Tensor, vi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blend the brighter of the restored sources with the drawn picture, by the head B×16×H×W."""
    # With each channel by itself: beside each other, a channel's values would cost reading all of them.
    drawn, weights, share = head.contiguous().split([3, 12, 1], dim=1)
    restored_ir, restored_vi = restored_sources(weights, ir, vi)
    joined = brighter_source(restored_vi, restored_ir).clamp(0, 1)
    fused = torch.lerp(joined, _to_image(drawn, vi), share.sigmoid().expand_as(joined))
    return fused, restored_ir, restored_vi


def _to_image(head: Tensor, source: Tensor) -> Tensor:
    """Add the degraded source and map to (0, 1) (spec 1.3, output image)."""
    return (torch.tanh(head + source) + 1) / 2
