"""Losses of image fusion and of contrastive groups.

Shapes: B batch, H W pixels, K positives, M negatives, D width of an embedding. Images are RGB in
[0, 1]; an infrared image has its grey value in all three channels.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_chroma, to_gray
from models.devices import unrounded

_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def element_maximum_loss(fused: Tensor, vi: Tensor, ir: Tensor) -> Tensor:
    """Distance to the larger source in each channel (the paper's content loss, spec 2.3)."""
    return F.l1_loss(fused, torch.maximum(vi, ir))


def brighter_source(vi: Tensor, ir: Tensor) -> Tensor:
    """The brighter source of two B×3×H×W, chosen per pixel by its channel mean (spec 2.1)."""
    ir_is_brighter = ir.mean(dim=1, keepdim=True) > vi.mean(dim=1, keepdim=True)  # B 1 H W
    return torch.where(ir_is_brighter, ir, vi)


def intensity_max_loss(fused: Tensor, vi: Tensor, ir: Tensor) -> Tensor:
    """Distance to the brighter source (spec 2.1)."""
    return F.l1_loss(fused, brighter_source(vi, ir))


def intensity_consistency_loss(fused: Tensor, vi: Tensor, ir: Tensor) -> Tensor:
    """Mean distance of the grey images to both sources (spec 2.1)."""
    gray = to_gray(fused)
    return (F.l1_loss(gray, to_gray(vi)) + F.l1_loss(gray, to_gray(ir))) / 2


def color_loss(fused: Tensor, vi: Tensor) -> Tensor:
    """Distance of Cb and Cr to those of the visible image (spec 2.1)."""
    fused_cb, fused_cr = to_chroma(fused)
    vi_cb, vi_cr = to_chroma(vi)
    return F.l1_loss(fused_cb, vi_cb) + F.l1_loss(fused_cr, vi_cr)


class FusionLoss(nn.Module):
    """The weighted terms of the fusion loss against clean sources (spec 2.1).

    `intensity_by_element` takes the larger source in each channel instead of the brighter pixel.
    Always in float32: under autocast the variances of SSIM would drown in bfloat16.
    """

    def __init__(
        self,
        *,
        intensity_max: float,
        intensity_consistency: float,
        color: float,
        gradient: float,
        ssim: float,
        intensity_by_element: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {
            "intensity_max": intensity_max,
            "intensity_consistency": intensity_consistency,
            "color": color,
            "gradient": gradient,
            "ssim": ssim,
        }
        self.content = element_maximum_loss if intensity_by_element else intensity_max_loss
        self.gradient = GradientLoss()
        self.similarity = Ssim()

    def forward(self, fused: Tensor, vi: Tensor, ir: Tensor) -> dict[str, Tensor]:
        """Return each term times its weight; images are B×3×H×W."""
        with unrounded(fused):
            fused, vi, ir = fused.float(), vi.float(), ir.float()
            terms = {
                "intensity_max": self.content(fused, vi, ir),
                "intensity_consistency": intensity_consistency_loss(fused, vi, ir),
                "color": color_loss(fused, vi),
                "gradient": self.gradient(fused, vi, ir),
                "ssim": self._ssim_loss(fused, vi, ir),
            }
        return {name: self.weights[name] * term for name, term in terms.items()}

    def _ssim_loss(self, fused: Tensor, vi: Tensor, ir: Tensor) -> Tensor:
        in_color = 1 - self.similarity(vi, fused)
        in_gray = 1 - self.similarity(to_gray(ir), to_gray(fused))
        return in_color + in_gray


class GradientLoss(nn.Module):
    """Distance of the absolute Sobel responses to the larger of the sources' (spec 2.1)."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T]).unsqueeze(1)  # 2 1 3 3
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, fused: Tensor, vi: Tensor, ir: Tensor) -> Tensor:
        """Return the loss of RGB images B×3×H×W, summed over the two directions."""
        target = torch.maximum(self._edges(vi), self._edges(ir))
        # The mean over two directions, times two, is the sum of the directions' means.
        return 2 * F.l1_loss(self._edges(fused), target)

    def _edges(self, rgb: Tensor) -> Tensor:
        gray = F.pad(to_gray(rgb), (1, 1, 1, 1), mode="replicate")
        return F.conv2d(gray, self.kernels).abs()  # B 2 H W


class Ssim(nn.Module):
    """Structural similarity of two image batches B×C×H×W in [0, 1], a scalar in [-1, 1].

    Gaussian window without padding, dynamic range 1, plain mean over pixels and channels
    (spec 2.1). Needs H and W of at least the window's size.
    """

    window: Tensor

    def __init__(self, *, window_px: int = 13, sigma: float = 1.5) -> None:
        super().__init__()
        offsets = torch.arange(window_px, dtype=torch.float64) - window_px // 2
        window = torch.exp(-(offsets**2) / (2 * sigma**2))
        self.register_buffer("window", (window / window.sum()).float(), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean similarity of x and y."""
        if min(x.shape[-2:]) < len(self.window):
            raise ValueError(
                f"SSIM needs images of at least {len(self.window)} pixels a side, "
                f"got {tuple(x.shape[-2:])}; use a larger crop"
            )
        moments = torch.stack([x, y, x * x, y * y, x * y])  # 5 B C H W
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = self._blur(moments)
        variance_x = mean_xx - mean_x**2
        variance_y = mean_yy - mean_y**2
        covariance = mean_xy - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
        structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
        return (luminance * structure).mean()

    def _blur(self, images: Tensor) -> Tensor:
        """Filter …×H×W with the window, rows then columns, valid area only.

        As products with band matrices: on crops they take a tenth of the time of convolutions with one
        channel, in both directions.
        """
        height, width = images.shape[-2:]
        return self._band(height) @ images @ self._band(width).t()

    def _band(self, length: int) -> Tensor:
        """Return the matrix (length-window+1)×length that filters a line.

        Rows of one more than `length` numbers, cut again at `length`, begin a place later each: four
        kernels, where a row by itself is one (424 a step at 224 px).
        """
        size = len(self.window)
        num_rows = length - size + 1
        row = F.pad(self.window, (0, num_rows))  # length+1
        return row.repeat(num_rows)[: num_rows * length].view(num_rows, length)


def info_nce(
    anchor: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    positive_in_denominator: bool = True,
) -> Tensor:
    """Sum over the K positives of InfoNCE with cosine similarity, averaged over the batch.

    `anchor` is B×D, `positives` B×K×D, `negatives` B×M×D. Each positive stands alone in its
    denominator with all the negatives (spec 2.1), or the negatives stand there alone (spec 2.3,
    paper; not bounded below). Always in float32: a small temperature would magnify the rounding of
    bfloat16.
    """
    with unrounded(anchor):
        anchor, positives, negatives = (
            F.normalize(x.float(), dim=-1) for x in (anchor, positives, negatives)
        )
        positive_logits = torch.einsum("bd,bkd->bk", anchor, positives) / temperature  # B K
        negative_logits = torch.einsum("bd,bmd->bm", anchor, negatives) / temperature  # B M
        log_negatives = negative_logits.logsumexp(dim=1, keepdim=True)  # B 1
        log_denominator = log_negatives
        if positive_in_denominator:
            log_denominator = torch.logaddexp(positive_logits, log_negatives)  # B K
        return (log_denominator - positive_logits).sum(dim=1).mean()


def group_contrastive_loss(
    anchors: tuple[Tensor, Tensor],
    positives: tuple[Tensor, Tensor],
    negatives: Tensor,
    *,
    temperature: float,
    positive_in_denominator: bool = True,
) -> Tensor:
    """Contrast two anchors of one scene, each the other's extra negative (spec 2.1).

    `anchors` are two B×D, `positives` two B×K×D, `negatives` B×M×D shared by both. The result is
    the sum of the two InfoNCE sums: with random vectors, K = 3 and M = 6 about 6 ln 8 = 12.5.
    """
    first, second = anchors
    against_second = torch.cat([negatives, second.unsqueeze(1)], dim=1)  # B M+1 D
    against_first = torch.cat([negatives, first.unsqueeze(1)], dim=1)
    contrast = partial(
        info_nce, temperature=temperature, positive_in_denominator=positive_in_denominator
    )
    return contrast(first, positives[0], against_second) + contrast(
        second, positives[1], against_first
    )
