"""The prior embedding networks: SPEN for the scene, DPEN for the degradation.

Shapes: B batch, H W pixels (multiples of 8), N prior tokens, D prior width, C width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dspfusion.config import DSPFusionConfig
from models.layers.blocks import TokenMixer

_MIXER_EXPANSION = 4


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a GELU between and a residual, B×C×H×W (spec 1.1, step 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, without activation."""
        return x + self.conv_out(F.gelu(self.conv_in(x)))


class PriorEncoder(nn.Module):
    """Images B×(in_channels)×H×W in [0, 1] to prior tokens B×N×4C (spec 1.1, the table)."""

    def __init__(self, in_channels: int, width: int, *, num_blocks: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        stem_width = width + width // 2
        self.stem = nn.Conv2d(in_channels, stem_width, 7, stride=4, padding=3)
        self.narrow = nn.Conv2d(stem_width, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks)))
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        self.mixer = TokenMixer(grid**2, width, expansion=_MIXER_EXPANSION)
        self.expand = nn.Linear(width, 4 * width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the prior tokens, row by row over the grid."""
        images = images.contiguous(memory_format=torch.channels_last)  # the faster convolutions
        x = F.gelu(self.narrow(F.gelu(self.stem(images))))  # B C H/4 W/4
        x = self.conv_out(self.blocks(x))
        x = pool_to_grid(x, self.grid)  # B C grid grid
        tokens = self.mixer(x.flatten(2).transpose(1, 2))  # B N C
        return F.gelu(self.expand(tokens))  # B N 4C


def pool_to_grid(x: Tensor, grid: int) -> Tensor:
    """Average B×C×H×W over a grid of bins that overlap where the grid does not divide (spec 1.1).

    What `adaptive_avg_pool2d` does, as two products: its ONNX form is wrong at free sizes.
    """
    rows, columns = (bins(length, grid, like=x) for length in x.shape[-2:])  # grid H, grid W
    counts = rows.sum(1, keepdim=True) * columns.sum(1)  # grid grid
    return rows @ x @ columns.t() / counts


def bins(length: int, grid: int, *, like: Tensor) -> Tensor:
    """Return which of 0..length each bin covers, as ones and zeros grid×length."""
    index = torch.arange(grid, device=like.device).unsqueeze(1)
    place = torch.arange(length, device=like.device)
    start, stop = index * length // grid, ((index + 1) * length + grid - 1) // grid
    return ((place >= start) & (place < stop)).to(like.dtype)


class NoPrior(nn.Module):
    """Stands for an encoder that is cut off: tokens without width, B×N×0, and no parameters."""

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Return what holds nothing, so that whoever joins priors need not ask."""
        return images.new_zeros((images.shape[0], self.num_tokens, 0))


class SemanticEncoder(nn.Module):
    """SPEN: what the scene shows, from both images together (spec 1.1).

    Input is B×6×H×W in [0, 1]; the semantic prior is B×N×256 in the full size.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.encoder = PriorEncoder(
            6,
            config.semantic_width,
            num_blocks=config.num_semantic_blocks,
            grid=config.prior_grid,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the semantic prior of stacked images, the infrared channels first."""
        return self.encoder(images)


class DegradationEncoder(nn.Module):
    """DPEN: what is wrong with one image of either modality (spec 1.2).

    Images are B×3×H×W in [0, 1]; the degradation prior is B×N×128 in the full size.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.encoder = PriorEncoder(
            3,
            config.degradation_width,
            num_blocks=config.num_degradation_blocks,
            grid=config.prior_grid,
        )
        self.type_mlp = nn.Linear(config.num_tokens, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the degradation prior of each image."""
        return self.encoder(images)

    def start_for_contrast(self) -> None:
        """Draw weights from which the contrastive loss can be learned in a short run.

        With torch's own, the embeddings of all images start equal and stay so for thousands of steps.
        Here the variance of the signal passes through (He et al. 2015, Eq. 10, no biases), and the
        first kernels have no mean: they see detail, which degradations change, and not brightness.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            kernels = self.encoder.stem.weight
            kernels -= kernels.mean(dim=(1, 2, 3), keepdim=True)

    def type_vector(self, prior: Tensor) -> Tensor:
        """Summarise priors B×N×D as B×D, the embedding of the contrastive loss (spec 1.2)."""
        return F.gelu(self.type_mlp(prior.transpose(1, 2))).squeeze(-1)  # B D


def degradation_encoder(config: DSPFusionConfig) -> DegradationEncoder | NoPrior:
    """Return DPEN, or what stands for it in a model without degradation prior."""
    return DegradationEncoder(config) if config.degradation_prior else NoPrior(config)


def semantic_encoder(config: DSPFusionConfig) -> SemanticEncoder | NoPrior:
    """Return SPEN, or what stands for it in a model without semantic prior."""
    return SemanticEncoder(config) if config.semantic_prior else NoPrior(config)
