"""DRFusion as it is used: a degraded pair and its operators in, a fused and two restored pictures out.

Shapes: B batch, H W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import from_luma, to_chroma, to_gray
from models.drfusion.config import MIN_SIZE_PX, SIZE_MULTIPLE_PX, DRFusionConfig
from models.drfusion.observation import Observation, observe
from models.drfusion.operators import bicubic_rows, operators_of
from models.drfusion.sampler import UnrolledChain
from models.system import Fused, Hints, check_pair

# Independent noise of the three colours, in luma: the norm of BT.601's weights.
LUMA_NOISE = (0.299**2 + 0.587**2 + 0.114**2) ** 0.5
# Of the guided filter (spec 8).
_RADIUS_PX, _EPSILON = 8, 1e-3

Triple = tuple[Tensor, Tensor, Tensor]


class DRFusionFuser(nn.Module):
    """Fuse `vi` B×3×H×W and `ir` B×1×H×W in [0, 1], any H, W >= 16, told the operators of both."""

    def __init__(self, config: DRFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.chain = UnrolledChain(config)

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        """Return fused and restored pictures in [0, 1]; `hints` are `vi_op` and `ir_op`, B×3 each."""
        check_pair(vi, ir, least_px=MIN_SIZE_PX)
        if hints is None:
            raise ValueError("DRFusion needs the hints vi_op and ir_op: noise, blur, block side")
        height, width = vi.shape[-2:]
        padding = (0, width % SIZE_MULTIPLE_PX, 0, height % SIZE_MULTIPLE_PX)
        vi, ir = (F.pad(picture, padding, mode="replicate") for picture in (vi, ir))  # spec 13
        fused = self.fuse_even(vi, ir, hints["vi_op"], hints["ir_op"])
        return Fused(*(picture[..., :height, :width] for picture in fused))

    def fuse_even(self, vi: Tensor, ir: Tensor, vi_op: Tensor, ir_op: Tensor) -> Triple:
        """Fused, visible and infrared picture of a pair whose sides are even."""
        observation = observe_pair(vi, ir, vi_op=vi_op, ir_op=ir_op, config=self.config)
        x = self.chain(observation).clamp(0, 1)
        restored_ir, luma, fused = x.split(1, dim=1)
        chroma = _upsampled(to_chroma(vi), vi_op[:, 2])
        if self.config.chroma == "denoised":
            chroma = (guided_filter(chroma[0], fused), guided_filter(chroma[1], fused))
        return from_luma(fused, *chroma), from_luma(luma, *chroma), restored_ir


class EvenFuser(nn.Module):
    """`fuse_even` as a module's forward, which is what `torch.export` takes."""

    def __init__(self, fuser: DRFusionFuser) -> None:
        super().__init__()
        self.fuser = fuser

    def forward(self, vi: Tensor, ir: Tensor, *hints: Tensor) -> Triple:
        """Fused, visible and infrared picture of a pair whose sides are even."""
        return self.fuser.fuse_even(vi, ir, *hints)


def observe_pair(
    vi: Tensor, ir: Tensor, *, vi_op: Tensor, ir_op: Tensor, config: DRFusionConfig
) -> Observation:
    """The two grey pictures and their operators: infrared and luma (spec 2)."""
    pictures = torch.cat([ir, to_gray(vi)], dim=1)  # B 2 H W
    in_luma = vi_op * vi_op.new_tensor([LUMA_NOISE, 1, 1])
    numbers = torch.stack([ir_op, in_luma], dim=1)  # B 2 3
    operators = operators_of(numbers, pictures.shape, inverse_threshold=config.inverse_threshold)
    by_gradients = config.inverse == "gradients"
    return observe(pictures, numbers, operators, sigma_y=config.sigma_y, by_gradients=by_gradients)


def _upsampled(chroma: tuple[Tensor, Tensor], side_px: Tensor) -> tuple[Tensor, Tensor]:
    """Cb and Cr B×1×H×W, interpolated where they are coarse (spec 8); `side_px` B is a block's side."""
    rows, columns = (bicubic_rows(side_px, length)[:, None] for length in chroma[0].shape[-2:])
    return rows @ chroma[0] @ columns.mT, rows @ chroma[1] @ columns.mT


def guided_filter(picture: Tensor, guide: Tensor) -> Tensor:
    """Smooth B×1×H×W where the guide is smooth (He et al. 2013, Eq. 5, 6, 8; spec 8)."""
    moments = torch.cat([guide, picture, guide * picture, guide * guide], dim=1)
    mean_i, mean_p, mean_ip, mean_ii = _box(moments).split(1, dim=1)
    slope = (mean_ip - mean_i * mean_p) / (mean_ii - mean_i**2 + _EPSILON)
    slope, offset = _box(torch.cat([slope, mean_p - slope * mean_i], dim=1)).split(1, dim=1)
    return slope * guide + offset


def _box(x: Tensor) -> Tensor:
    """Mean over a window, at the border over what of it lies in the picture."""
    side = 2 * _RADIUS_PX + 1
    return F.avg_pool2d(x, side, stride=1, padding=_RADIUS_PX, count_include_pad=False)
