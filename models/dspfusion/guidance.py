"""How the priors guide the features: SPIM, DPMM, PGFM, and the priors of the levels (spec 1.3).

Shapes: B batch, C channels of a level, H W pixels of a level, N prior tokens of a level,
D prior width, h heads, c = C / h. A batch of 2B holds the infrared images first, then the visible.
"""

import torch
from torch import Tensor, nn

from models.devices import at_least_float32, unrounded
from models.dspfusion.config import DSPFusionConfig
from models.layers import cpu_strips
from models.layers.attention import softmax_by_head
from models.layers.blocks import ChannelNorm, split_pair
from models.layers.pixel_sums import PixelSums


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
        keys, contents = self._fold(prior)  # B hN C each
        norm, bias = self.pixel_norm, self.project_out.bias
        if cpu_strips.use_strips(x, has_gradient=False):
            affine = norm.weight, norm.bias
            return cpu_strips.token_attention(
                x, affine, keys, contents, bias, num_heads=self.num_heads
            )
        with unrounded(x):
            x, keys, contents = map(at_least_float32, (x, keys, contents))
            weights = softmax_by_head(keys @ norm(x).flatten(2), self.num_heads)  # B hN HW
            content = weights.transpose(1, 2) @ contents + bias  # B HW C
            return x + content.transpose(1, 2).unflatten(2, x.shape[-2:])  # B C H W

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
