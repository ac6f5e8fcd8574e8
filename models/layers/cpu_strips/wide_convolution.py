"""A 3×3 convolution of many channels with a quarter of the multiplications, strip by strip.

Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016, Eq. 12): of tiles of 6×6 pixels, which
overlap by two, come 4×4 results by 36 products instead of 144. The points are Toom and Cook's 0, ±3/4,
±3/2 and infinity: of those tried they round least, about five times a direct convolution (rms).

Shapes: B batch, C channels in, O out, H W pixels, t tiles of a strip.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_POINTS = (0, 0.75, -0.75, 1.5, -1.5)
_OUT, _TAPS = 4, 3
_TILE = _OUT + _TAPS - 1
# Below, moving the tiles costs more than is saved.
_LEAST_CHANNELS = 128
# Tiles of a strip: enough for the matrix products, and few enough for the cache.
_STRIP_TILES = 128


def is_wide(x: Tensor, weight: Tensor) -> bool:
    """Whether it pays for maps B×C×H×W and a kernel O×C×3×3: many channels, and a strip of tiles."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return min(weight.shape[:2]) >= _LEAST_CHANNELS and pixels >= _STRIP_TILES * _OUT**2


def wide_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve B×C×H×W with O×C×3×3 at stride 1, zeros outside; return B×O×H×W, channels last."""
    height, width = x.shape[-2:]
    down, across = -(-height // _OUT), -(-width // _OUT)
    border = (1, across * _OUT - width + 1, 1, down * _OUT - height + 1)
    images = F.pad(x, border).permute(0, 2, 3, 1)  # B H W C
    to_points, of_weight, to_pixels = (x.new_tensor(m) for m in _transforms())
    kernels = _kernels(weight, of_weight)
    out = x.new_empty(len(x), down * _OUT, across * _OUT, len(weight))
    tiles = out.view(len(x), down, _OUT, across, _OUT, -1).permute(2, 4, 0, 1, 3, 5)
    rows = max(_STRIP_TILES // (across * len(x)), 1)
    for first in range(0, down, rows):
        strip = images[:, first * _OUT : (first + rows) * _OUT + _TAPS - 1]
        strip = strip.unfold(1, _TILE, _OUT).unfold(2, _TILE, _OUT)  # B … … C 6 6
        strip = strip.permute(4, 5, 0, 1, 2, 3).reshape(_TILE**2, -1)
        values = (to_points @ strip).view(_TILE**2, -1, weight.shape[1])  # 36 t C
        products = torch.bmm(values, kernels).view(_TILE**2, -1)  # 36 tO
        place = tiles[:, :, :, first : first + rows]
        place.copy_((to_pixels @ products).view(place.shape))
    out = out[:, :height, :width].permute(0, 3, 1, 2)
    return out if bias is None else out.add_(bias[:, None, None])


def _kernels(weight: Tensor, of_weight: Tensor) -> Tensor:
    """The kernels at the points, 36×C×O."""
    taps = weight.permute(2, 3, 1, 0).reshape(_TAPS**2, -1)  # 9 CO
    return (of_weight @ taps).view(_TILE**2, weight.shape[1], weight.shape[0])


@cache
def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of two dimensions: of a tile 36×36, of a kernel 36×9, back to pixels 16×36.

    The transpose of Toom and Cook's product of polynomials: y = Aᵀ ((G g) ⊙ (Bᵀ d)).
    """
    at = [np.vander(_POINTS, degree, increasing=True) for degree in (_TILE, _TAPS, _OUT)]
    whole, kernel, pixels = (
        np.vstack([m, np.eye(1, m.shape[1], m.shape[1] - 1)]) for m in at
    )  # the last row is the point at infinity
    tile = np.linalg.inv(whole).T
    return np.kron(tile, tile), np.kron(kernel, kernel), np.kron(pixels.T, pixels.T)
