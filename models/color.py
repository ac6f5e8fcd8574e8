"""Grey and chroma of RGB images, and grey images as RGB.

Shapes: B batch, H W pixels; values in [0, 1].
"""

from torch import Tensor, cat


def to_rgb(gray: Tensor) -> Tensor:
    """Repeat the one channel of …×1×H×W three times, as a view."""
    if gray.shape[-3] != 1:
        raise ValueError(f"an infrared image has 1 channel, got shape {tuple(gray.shape)}")
    return gray.expand(*gray.shape[:-3], 3, *gray.shape[-2:])


def to_gray(rgb: Tensor) -> Tensor:
    """Luma of B×3×H×W as B×1×H×W, BT.601 weights (spec 2.1)."""
    r, g, b = rgb.split(1, dim=1)
    return 0.299 * r + 0.587 * g + 0.114 * b


def to_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Cb and Cr of B×3×H×W, each B×1×H×W in [-0.5, 0.5], without offset (spec 2.1)."""
    r, g, b = rgb.split(1, dim=1)
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b
    return cb, cr


def from_luma(luma: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """RGB B×3×H×W in [0, 1] of luma and chroma B×1×H×W each: the inverse of the two above, clipped."""
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return cat([red, green, blue], dim=1).clamp(0, 1)
