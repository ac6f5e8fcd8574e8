"""Means over all pixels of a picture that is seen tile by tile.

Channel attention and DPMM read such means. A tile alone would give other ones than the picture, and
each tile another picture. So the tiles are run more than once: a pass of tiles that do not overlap sums
up, the next pass reads the picture's means instead of its tile's (README of dspfusion, Tiles).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

# Alone: every layer reads what it sees. Counting: the pass sums up. Known: the pass only reads.
Phase = Literal["alone", "counting", "known"]


class PixelSums(nn.Module):
    """What one layer sums up over pixels in a forward: without parameters, silent but for tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Be silent again: what is added comes back."""
        self._phase: Phase = "alone"
        self._picture: tuple[Tensor, ...] | None = None
        self._counted: tuple[Tensor, ...] | None = None

    def begin_pass(self, *, last: bool) -> None:
        """Start over the tiles; from now on the picture's sums are those of the pass before."""
        self._phase = "known" if last else "counting"
        self._picture, self._counted = self._counted, None

    def known(self) -> tuple[Tensor, ...] | None:
        """Return the picture's sums if the layer need not sum up itself, else None."""
        return self._picture if self._phase == "known" else None

    def add(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """Add a tile's sums; return the picture's, or these while nothing else is known."""
        if self._phase == "counting":
            pairs = zip(self._counted or sums, sums, strict=True)
            self._counted = tuple(a + b for a, b in pairs) if self._counted else sums
        return self._picture or sums

    def mean(self, own: Tensor, num_pixels: int) -> Tensor:
        """Return the mean over the picture's pixels, given a tile's own and how many it is of."""
        if self._phase == "alone":
            return own
        total, count = self.add(own * num_pixels, own.new_tensor(num_pixels))
        return total / count


@contextmanager
def sums_of(network: nn.Module) -> Iterator[list[PixelSums]]:
    """Hand out the sums of a network's layers, which are silent again after the block."""
    layers = [module for module in network.modules() if isinstance(module, PixelSums)]
    try:
        yield layers
    finally:
        for layer in layers:
            layer.reset()
