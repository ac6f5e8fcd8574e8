"""What a level of the fusion transformer is made of (spec 1.3).

Shapes: B batch, C channels of a level, H W pixels of a level.
"""

from torch import Tensor, nn

from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.cross_attention import CrossAttention
from models.dspfusion.guidance import DegradationModulation, SemanticIntegration, Unguided
from models.layers.blocks import TransformerBlock


class EncoderLayer(nn.Module):
    """SPIM and DPMM side by side, joined by cross attention, then blocks (spec 1.3)."""

    def __init__(self, config: DSPFusionConfig, level: int) -> None:
        super().__init__()
        channels, num_heads = config.level_widths[level], config.num_heads[level]
        self.spim = _spim(config, channels, num_heads)
        self.dpmm = _dpmm(config, channels, config.level_tokens[level])
        self.cross_attention = CrossAttention(channels, num_heads=num_heads)
        self.blocks = transformer_blocks(config, channels, num_heads, config.num_blocks[level])

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
        self.blocks = transformer_blocks(config, channels, num_heads, num_blocks)

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


def transformer_blocks(
    config: DSPFusionConfig, channels: int, num_heads: int, num_blocks: int
) -> nn.Sequential:
    """The blocks of a level or a head."""
    return nn.Sequential(
        *(
            TransformerBlock(channels, num_heads=num_heads, ffn_expansion=config.ffn_expansion)
            for _ in range(num_blocks)
        )
    )
