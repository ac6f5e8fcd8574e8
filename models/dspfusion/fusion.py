"""The restoration and fusion transformer (spec 1.3).

Shapes: B batch, C channels of a level, H W pixels of a level, N prior tokens of a level,
D prior width, h heads, c = C / h. A batch of 2B holds the infrared images first, then the visible.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import strip_gradients
from models.attention import ChannelGram, attend, channel_weights, project_values
from models.dspfusion.config import DSPFusionConfig
from models.layers import (
    ChannelNorm,
    Downsample,
    TransformerBlock,
    Upsample,
    depthwise3x3,
    pointwise,
    split_pair,
)
from models.pixel_sums import PixelSums
from models.strips import (
    Branch,
    can_use_strips,
    context_strips,
    pixels_first,
    row_strips,
    strip_images,
    strip_rows,
)

_NUM_LEVELS = 4


class SemanticIntegration(nn.Module):
    """SPIM: pixels attend to the tokens of the semantic prior, residual (spec 1.3, SPIM).

    Features B×C×H×W, prior B×N×D. Scale is the fixed 1/sqrt(c); the paper's is learnable.
    """

    def __init__(self, channels: int, prior_width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pixel_norm = ChannelNorm(channels)
        self.prior_norm = nn.LayerNorm(prior_width)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(prior_width, 2 * channels, bias=False)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Return the features with the scene's content added."""
        keys, contents = self._fold(prior)  # B hN C, B hN C
        if can_use_strips(x):
            images = strip_images(x)
            # Under autocast they come rounded to bfloat16; the few products with them are not.
            folded = (table.to(images.dtype) for table in (keys, contents))
            each = zip(images, *folded, strict=True)
            return pixels_first(torch.stack([self._in_strips(*image) for image in each]))
        pixels = self.pixel_norm.last_axis(x.permute(0, 2, 3, 1)).flatten(1, 2)  # B HW C
        weights = self._softmax(keys @ pixels.transpose(1, 2))  # B hN HW
        content = weights.transpose(1, 2) @ contents + self.project_out.bias  # B HW C
        return x + pixels_first(content.unflatten(1, x.shape[-2:]))  # B C H W

    def _fold(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Carry the tokens' keys and values to the pixels' side of both projections.

        (x Wqᵀ) Kᵀ = x (K Wq)ᵀ and (S V) Wprojᵀ = S (V Wprojᵀ): a pixel then meets N tokens in C
        channels instead of two C×C projections. The fixed scale 1/sqrt(c) goes into the keys.
        """
        key, value = self.key_value(self.prior_norm(prior)).chunk(2, dim=-1)  # B N C each
        query, project = self.query.weight, self.project_out.weight.t()  # C C each
        keys, contents = (
            (
                x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # B h N c
                @ weight.unflatten(0, (self.num_heads, -1))  # h c C
            ).flatten(1, 2)  # B hN C
            for x, weight in ((key, query), (value, project))
        )
        return keys * (key.shape[-1] // self.num_heads) ** -0.5, contents

    def _softmax(self, scores: Tensor) -> Tensor:
        """Softmax over each head's tokens of …×hN×n."""
        return scores.unflatten(-2, (self.num_heads, -1)).softmax(dim=-2).flatten(-3, -2)

    @torch.autocast("cpu", enabled=False)
    def _in_strips(self, image: Tensor, keys: Tensor, contents: Tensor) -> Tensor:
        """Add the content to one image H×W×C, for keys and contents hN×C."""
        out = torch.empty_like(image)
        for rows in row_strips(image, image.shape[-1]):
            pixels = self.pixel_norm.last_axis(image[rows]).flatten(0, 1)  # n C
            weights = self._softmax(keys @ pixels.t())  # hN n
            content = torch.addmm(self.project_out.bias, weights.t(), contents)  # n C
            torch.add(image[rows], content.view_as(image[rows]), out=out[rows])
        return out


class DegradationModulation(nn.Module):
    """DPMM: an affine map per channel, chosen by the degradation prior (spec 1.3, DPMM).

    Features B×C×H×W, prior B×N×D. No residual; the 3×3 `convolution` is the code's, not the paper's.
    """

    def __init__(
        self, channels: int, prior_width: int, *, num_tokens: int, convolution: bool
    ) -> None:
        super().__init__()
        self.token_weights = nn.Linear(channels, num_tokens)
        self.prior_norm = nn.LayerNorm(prior_width)
        self.scale_shift = nn.Linear(prior_width, 2 * channels, bias=False)
        self.conv_out = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            if convolution
            else nn.Identity()
        )
        self.sums = PixelSums()

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Return the modulated features."""
        mean = self.sums.mean(x.mean(dim=(2, 3)), x.shape[2] * x.shape[3])  # B C
        weights = self.token_weights(mean).softmax(dim=-1)  # B N
        summary = (weights.unsqueeze(1) @ prior).squeeze(1)  # B D
        alpha, beta = self.scale_shift(self.prior_norm(summary)).chunk(2, dim=-1)  # B C each
        return self.conv_out(alpha[..., None, None] * x + beta[..., None, None])


class Unguided(nn.Module):
    """Stands for SPIM or DPMM where their prior is cut off: features stay as they are."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Return the features; the prior has no width."""
        return x


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
        channels = image.shape[-1]
        gram = ChannelGram.zeros(channels, len(self.temperature), like=image)
        values = torch.empty_like(image)
        rows_px = strip_rows(image, 3 * channels)
        query, key_value = self._branches()
        queries = context_strips(image, self.norm.last_axis, [query], rows_px)
        others = context_strips(other, self.norm.last_axis, [key_value], rows_px)
        for (rows, (q,)), (_, (kv,)) in zip(queries, others, strict=True):
            k, v = kv.chunk(2, dim=1)  # n C each
            gram.add(q, k)
            values[rows] = v.view_as(values[rows])
        weights = gram.over_picture(self.sums).weights(self.temperature)
        return project_values(values, weights, self.project_out.weight).add_(image)


class EncoderLayer(nn.Module):
    """SPIM and DPMM side by side, joined by cross attention, then blocks (spec 1.3)."""

    def __init__(self, config: DSPFusionConfig, level: int) -> None:
        super().__init__()
        channels, num_heads = config.level_widths[level], config.num_heads[level]
        self.spim = _spim(config, channels, num_heads)
        self.dpmm = _dpmm(config, channels, config.level_tokens[level])
        self.cross_attention = CrossAttention(channels, num_heads=num_heads)
        self.blocks = _blocks(config, channels, num_heads, config.num_blocks[level])

    def forward(self, x: Tensor, semantic_prior: Tensor, degradation_prior: Tensor) -> Tensor:
        """Return the level's features, B×C×H×W."""
        content = self.spim(x, semantic_prior)
        modulated = self.dpmm(x, degradation_prior)
        return self.blocks(self.cross_attention(content, modulated))


class DecoderLayer(nn.Module):
    """SPIM, then blocks, B×C×H×W (spec 1.3)."""

    def __init__(
        self, config: DSPFusionConfig, *, channels: int, num_heads: int, num_blocks: int
    ) -> None:
        super().__init__()
        self.spim = _spim(config, channels, num_heads)
        self.blocks = _blocks(config, channels, num_heads, num_blocks)

    def forward(self, x: Tensor, semantic_prior: Tensor) -> Tensor:
        """Return the level's features."""
        return self.blocks(self.spim(x, semantic_prior))


def _spim(config: DSPFusionConfig, channels: int, num_heads: int) -> SemanticIntegration | Unguided:
    if not config.semantic_prior:
        return Unguided()
    return SemanticIntegration(channels, config.semantic_prior_width, num_heads=num_heads)


def _dpmm(
    config: DSPFusionConfig, channels: int, num_tokens: int
) -> DegradationModulation | Unguided:
    if not config.degradation_prior:
        return Unguided()
    return DegradationModulation(
        channels,
        config.degradation_prior_width,
        num_tokens=num_tokens,
        convolution=config.dpmm_convolution,
    )


def _blocks(
    config: DSPFusionConfig, channels: int, num_heads: int, num_blocks: int
) -> nn.Sequential:
    return nn.Sequential(
        *(
            TransformerBlock(channels, num_heads=num_heads, ffn_expansion=config.ffn_expansion)
            for _ in range(num_blocks)
        )
    )


class PriorGuidedFusion(nn.Module):
    """PGFM: gates from the prior (channels) and the features (pixels) (spec 1.3).

    Features 2B×C×H×W, semantic prior B×N×D, result B×C×H×W. The two modalities' gates are
    independent; they share the spatial kernel. The 1×1 `convolution` is the code's, not the paper's.
    Without a prior (D = 0) the gates know pixels alone.
    """

    def __init__(
        self, channels: int, prior_width: int, *, num_tokens: int, convolution: bool
    ) -> None:
        super().__init__()
        self.has_prior = prior_width > 0
        if self.has_prior:
            self.token_pool = nn.Linear(num_tokens, 1)
            self.channel_gate = nn.Linear(prior_width, 2 * channels)
        self.spatial_gate = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.project_out = (
            nn.Conv2d(channels, channels, 1, bias=False) if convolution else nn.Identity()
        )

    def forward(self, x: Tensor, semantic_prior: Tensor) -> Tensor:
        """Return the fused features."""
        extremes = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        gates = self.spatial_gate(extremes)  # 2B 1 H W
        if self.has_prior:
            summary = self.token_pool(semantic_prior.transpose(1, 2)).squeeze(-1)  # B D
            by_channel = torch.cat(self.channel_gate(summary).chunk(2, dim=1))  # 2B C
            gates = by_channel[..., None, None] * gates  # 2B C H W
        ir, vi = split_pair(torch.sigmoid(gates) * x)
        return self.project_out(ir + vi)


class PriorMap(nn.Module):
    """Carry a prior to the next level: B×N×D to B×N'×D, tokens then channels (spec 1.3)."""

    def __init__(self, num_tokens: int, num_tokens_out: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(num_tokens, num_tokens_out)
        self.channels = nn.Linear(width, width)

    def forward(self, prior: Tensor) -> Tensor:
        """Return the prior of the next level."""
        return self.channels(self.tokens(prior.transpose(1, 2)).transpose(1, 2))


class PriorPyramid(nn.Module):
    """A prior B×N×D at each of the four levels; levels 3 and 4 share theirs (spec 1.3).

    A prior that is cut off (D = 0) is the same nothing at every level.
    """

    def __init__(self, config: DSPFusionConfig, width: int) -> None:
        super().__init__()
        self.has_prior = width > 0
        if self.has_prior:
            self.to_level2 = PriorMap(config.num_tokens, config.num_deep_tokens, width)
            self.to_level3 = PriorMap(config.num_deep_tokens, config.num_deep_tokens, width)

    def forward(self, prior: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the priors of levels 1 to 4."""
        if not self.has_prior:
            return prior, prior, prior, prior
        level2 = self.to_level2(prior)
        level3 = self.to_level3(level2)
        return prior, level2, level3, level3


class FusionHead(nn.Module):
    """Refinement with the prior, then a 3×3 convolution to 3 channels (spec 1.3)."""

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.refinement = DecoderLayer(
            config,
            channels=config.head_width,
            num_heads=config.num_heads[0],
            num_blocks=config.num_refinement_blocks,
        )
        self.output = nn.Conv2d(config.head_width, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor, semantic_prior: Tensor) -> Tensor:
        """Map features B×(head width)×H×W to B×3×H×W, before the skip."""
        return self.output(self.refinement(x, semantic_prior))


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
        self.blocks = _blocks(config, channels, config.num_heads[0], num_blocks)
        self.output = nn.Conv2d(channels, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features B×(head width)×H×W to B×3×H×W, before the skip."""
        return self.output(self.blocks(self.gate(x)))


class Restored(NamedTuple):
    """What the three heads return, B×3×H×W in (0, 1) each."""

    fused: Tensor
    ir: Tensor
    vi: Tensor


class FusionNetwork(nn.Module):
    """Restore and fuse a degraded pair with its priors (spec 1.3).

    `ir` and `vi` are B×3×H×W in [0, 1], H and W multiples of 8; the degradation priors B×N×128,
    the semantic prior B×N×256 in the full size. The fused image is B×3×H×W in (0, 1). A prior that
    the configuration cuts off is not read.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.semantic_pyramid = PriorPyramid(config, config.semantic_prior_width)
        self.degradation_pyramid = PriorPyramid(config, config.degradation_prior_width)
        self.patch_embed = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
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
        self.three_heads = config.three_heads
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
        x = self._features(ir, vi, degradation_prior, semantic_prior)
        head = self.fused_head(x) if self.three_heads else self.head(x, semantic_prior)
        return _to_image(head, vi)

    def restore(
        self, ir: Tensor, vi: Tensor, degradation_prior: Tensor, semantic_prior: Tensor
    ) -> Restored:
        """Return the fused and both restored images; the network must have three heads."""
        assert self.three_heads, "only a network with three heads restores the sources"
        x = self._features(ir, vi, degradation_prior, semantic_prior)
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
        pair = torch.cat([ir, vi]).contiguous(memory_format=torch.channels_last)  # 2B 3 H W
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


def _to_image(head: Tensor, source: Tensor) -> Tensor:
    """Add the degraded source and map to (0, 1) (spec 1.3, output image)."""
    return (torch.tanh(head + source) + 1) / 2
