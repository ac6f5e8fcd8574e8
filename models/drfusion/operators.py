"""The linear operators of two pictures, from hints: blur, then block means; and their pseudo-inverses.

A = P B (spec 5): B blurs, P replaces each pixel by the mean of its block, so that all pictures keep
their size. Both are what `degradations.blur` and `degradations.resolution` do, borders included: a
picture that is mirrored without repeating its edge, H to 2H - 2 pixels, makes the blur a circular one.

Shapes: B batch, S pictures of a scene, H W pixels, h w frequencies, K taps of the blur.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# The kernel of `degradations.blur`, 21 pixels.
BLUR_RADIUS_PX = 10
_ITERATIONS, _TINY = 10, 1e-20
_LEAST_SIGMA_PX = 1e-3  # stands for no blur: all other taps are then 0


@dataclass(frozen=True)
class Operators:
    """The operators of B×S pictures of one size.

    `response` is the blur's, B×S×h×w; `rows` B×S×H×H and `columns` B×S×W×W are the block means.
    `is_identity` B×1×1×1 says where neither picture of a scene is blurred or coarse.
    """

    response: Tensor
    rows: Tensor
    columns: Tensor
    is_identity: Tensor
    inverse_threshold: float
    mirrored: bool = True

    def apply(self, x: Tensor) -> Tensor:
        """A x, B×S×H×W (spec 5)."""
        return self.rows @ self.filter(x, self.response) @ self.columns.mT

    def restorable_response(self) -> Tensor:
        """H(f) where |H| is at least the threshold, infinite elsewhere: 1 over it is B† (spec 5)."""
        kept = self.response.abs() >= self.inverse_threshold
        return torch.where(kept, self.response, torch.inf)

    def invert(self, y: Tensor) -> Tensor:
        """A† y = B† P y, B×S×H×W: the cascade of both pseudo-inverses (spec 5)."""
        return self.filter(self.rows @ y @ self.columns.mT, 1 / self.restorable_response())

    def transpose(self, y: Tensor) -> Tensor:
        """Aᵀ y, B×S×H×W. P is symmetric; of mirrored pictures B is, where edge pixels count half."""
        means = self.rows @ y @ self.columns.mT
        if not self.mirrored:
            return self.filter(means, self.response)
        weights = _edge_weights(y, -2) * _edge_weights(y, -1)
        return weights * self.filter(means / weights, self.response)

    def solve(self, y: Tensor) -> Tensor:
        """A† y, made better by ten conjugate-gradient iterations on |A x - y|² (CGLS; spec 5, i).

        Each leaves less of the error, B×S×H×W; what is added lies in the range of Aᵀ.
        """
        x = self.invert(y)
        left = y - self.apply(x)
        slope = direction = self.transpose(left)
        square = _dot(slope, slope)
        for _ in range(_ITERATIONS):
            image = self.apply(direction)
            step = square / _dot(image, image).clamp(min=_TINY)
            x, left = x + step * direction, left - step * image
            slope, before = self.transpose(left), square
            square = _dot(slope, slope)
            direction = slope + square / before.clamp(min=_TINY) * direction
        return x

    def filter(self, x: Tensor, multiplier: Tensor) -> Tensor:
        """Multiply the spectrum of B×S×H×W."""
        return self.from_spectrum(self.spectrum(x) * multiplier, x.shape)

    def spectrum(self, x: Tensor) -> Tensor:
        """The spectrum of B×S×H×W, mirrored unless the operators are circular."""
        return torch.fft.rfft2(mirror(x) if self.mirrored else x)

    def from_spectrum(self, spectrum: Tensor, shape: torch.Size) -> Tensor:
        """The pictures B×S×H×W of a spectrum."""
        height, width = shape[-2:]
        size = (2 * height - 2, 2 * width - 2) if self.mirrored else (height, width)
        return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def operators_of(
    numbers: Tensor,
    shape: torch.Size,
    *,
    inverse_threshold: float,
    radius_px: int = BLUR_RADIUS_PX,
    mirrored: bool = True,
) -> Operators:
    """Operators of pictures …×H×W by B×S×3 numbers: noise, blur sigma in px, side of a block in px.

    `mirrored=False` makes the blur a circular one.
    """
    sigma_px, side_px = numbers[..., 1], numbers[..., 2]  # B S
    height, width = shape[-2:]
    size = (2 * height - 2, 2 * width - 2) if mirrored else (height, width)
    is_identity = ((sigma_px == 0) & (side_px == 1)).all(dim=1)
    return Operators(
        gaussian_response(sigma_px, size, radius_px=radius_px),
        block_means(side_px, height),
        block_means(side_px, width),
        is_identity[:, None, None, None],
        inverse_threshold,
        mirrored,
    )


def gaussian_response(sigma_px: Tensor, size: tuple[int, int], *, radius_px: int) -> Tensor:
    """H(f) of the sampled, normalised Gaussian on the frequencies of `rfft2`, …×h×w (spec 5)."""
    places = partial(torch.arange, dtype=sigma_px.dtype, device=sigma_px.device)
    offsets = places(-radius_px, radius_px + 1)  # K
    sigma = sigma_px.clamp(min=_LEAST_SIGMA_PX)[..., None]
    taps = torch.exp(-(offsets**2) / (2 * sigma**2))
    taps = taps / taps.sum(dim=-1, keepdim=True)  # … K
    height, width = size
    frequencies = (
        places(height) / height,
        places(width // 2 + 1) / width,
    )
    down, across = (
        torch.cos(2 * torch.pi * offsets[:, None] * axis) for axis in frequencies
    )  # K h, K w
    return (taps @ down)[..., :, None] * (taps @ across)[..., None, :]


def block_means(side_px: Tensor, length: int) -> Tensor:
    """Matrices …×N×N that put the mean of its block into each of N pixels; the last may be cut.

    As matrices, because each picture of a batch has its own side: next to the network they cost nothing.
    """
    blocks = torch.floor(torch.arange(length, device=side_px.device) / side_px[..., None])  # … N
    same = (blocks[..., :, None] == blocks[..., None, :]).to(side_px.dtype)
    return same / same.sum(dim=-1, keepdim=True)


def bicubic_rows(side_px: Tensor, length: int) -> Tensor:
    """Matrices …×N×N that interpolate N pixels from the centres of their blocks (Keys 1981, a = -1/2).

    Of blocks of 1 pixel the identity.  At the borders the weights that are left are scaled up.
    """
    places = torch.arange(length, dtype=side_px.dtype, device=side_px.device)
    side = side_px[..., None]
    at = (places + 0.5) / side - 0.5  # … N, in blocks
    distance = (at[..., :, None] - torch.floor(places / side)[..., None, :]).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
    return weights / weights.sum(dim=-1, keepdim=True)


def mirror(x: Tensor) -> Tensor:
    """Extend …×H×W to …×2H-2×2W-2 at the bottom and right, without repeating the edge."""
    x = torch.cat([x, x[..., 1:-1, :].flip(-2)], dim=-2)
    return torch.cat([x, x[..., 1:-1].flip(-1)], dim=-1)


def _edge_weights(x: Tensor, axis: int) -> Tensor:
    """1 along an axis of …×H×W, and 1/2 at both ends: how often the mirrored picture has each pixel."""
    weights = torch.ones(x.shape[axis], dtype=x.dtype, device=x.device)
    weights[[0, -1]] = 0.5
    return weights if axis == -1 else weights[:, None]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each picture, …×1×1."""
    return (one * other).sum(dim=(-2, -1), keepdim=True)
