"""The losses of the chain's end, in three profiles (spec 6).

Shapes: B batch, H W pixels; grey pictures B×1×H×W.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.drfusion.config import LossProfile
from models.losses import Ssim

_WINDOW_PX = 11


class ChainLoss(nn.Module):
    """The weighted terms of a profile: their sum is the loss.

    "released": 5 L_int + L_grad + 5 L_rec; "paper": L_rec + 10 (L_int + 20 L_grad); "medical":
    10 Σ|f - x_i| + 10 Σ(1 - SSIM(f, x_i)) + L_rec. The targets of L_int and L_grad are the chain's own
    restored sources, not detached; those of "medical" the clean ones.
    """

    def __init__(self, profile: LossProfile) -> None:
        super().__init__()
        self.weights = _WEIGHTS[profile]
        self.gradient = SobelMagnitude()
        self.similarity = Ssim(window_px=_WINDOW_PX)

    def forward(self, x0: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Terms of the chain's end B×3×H×W against the clean infrared and luma B×2×H×W."""
        fused, sources = x0[:, 2:], x0[:, :2]
        terms = {"reconstruction": 2 * F.l1_loss(sources, clean)}  # the sum of both means
        if "ssim" in self.weights:
            terms["intensity"] = 2 * F.l1_loss(fused.expand_as(clean), clean)
            ir, luma = clean.split(1, dim=1)
            terms["ssim"] = 2 - self.padded_ssim(fused, ir) - self.padded_ssim(fused, luma)
        else:
            terms["intensity"] = F.l1_loss(fused, sources.amax(dim=1, keepdim=True))
            edges = self.gradient(x0)
            terms["gradient"] = F.l1_loss(edges[:, 2:], edges[:, :2].amax(dim=1, keepdim=True))
        return {name: self.weights[name] * term for name, term in terms.items()}

    def padded_ssim(self, x: Tensor, y: Tensor) -> Tensor:
        """SSIM of grey pictures with a window of 11 px over zeros outside them (spec 6)."""
        pad = (_WINDOW_PX // 2,) * 4
        similarity: Tensor = self.similarity(F.pad(x, pad), F.pad(y, pad))
        return similarity


_WEIGHTS: dict[LossProfile, dict[str, float]] = {
    "released": {"intensity": 5, "gradient": 1, "reconstruction": 5},
    "paper": {"intensity": 10, "gradient": 200, "reconstruction": 1},
    "medical": {"intensity": 10, "ssim": 10, "reconstruction": 1},
}


class SobelMagnitude(nn.Module):
    """|S_x| + |S_y| of each channel, over zeros outside the picture (spec 6)."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T]).unsqueeze(1)  # 2 1 3 3
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W."""
        edges = F.conv2d(x.flatten(0, 1)[:, None], self.kernels, padding=1)  # BC 2 H W
        return edges.abs().sum(dim=1).unflatten(0, x.shape[:2])
