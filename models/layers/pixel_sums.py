"""Means over all pixels of a picture that is seen tile by tile.

Channel attention and DPMM read such means. A tile alone would give other ones than the picture, and
each tile another picture. So the tiles are run more than once: a pass of tiles that do not overlap sums
up, the next pass reads the picture's means instead of its tile's (README of dspfusion, Tiles).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

# Alone: every layer reads what it sees. Counting: the pass sums up. Known: the pass only reads.
Phase = Literal["alone", "counting", "known"]


class PixelSums(nn.Module):
    """What one layer sums up over pixels: a place without parameters, silent but for tiles.

    A layer that goes through a batch image by image calls it once for each, always in one order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Be silent again: what is added comes back."""
        self._phase: Phase = "alone"
        self._place = 0
        self._picture: list[tuple[Tensor, ...]] = []
        self._counted: list[tuple[Tensor, ...]] = []

    def begin_pass(self, *, last: bool) -> None:
        """Start over the tiles; from now on the picture's sums are those of the pass before."""
        self._phase = "known" if last else "counting"
        self._picture, self._counted = self._counted, []

    def begin_tile(self) -> None:
        """Start over the images of a batch."""
        self._place = 0

    def known(self) -> tuple[Tensor, ...] | None:
        """Return the picture's sums if the layer need not sum up itself, else None."""
        if self._phase != "known":
            return None
        self._place += 1
        return self._picture[self._place - 1]

    def add(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """Add a tile's sums; return the picture's, or these while nothing else is known."""
        if self._phase == "alone":
            return sums
        place, self._place = self._place, self._place + 1
        if self._phase == "known":
            return self._picture[place]
        if place == len(self._counted):
            self._counted.append(sums)
        else:
            before = self._counted[place]
            self._counted[place] = tuple(a + b for a, b in zip(before, sums, strict=True))
        return self._picture[place] if self._picture else sums

    def mean(self, own: Tensor, num_pixels: int) -> Tensor:
        """Return the mean over the picture's pixels, given a tile's own and how many it is of."""
        if self._phase == "alone":
            return own
        total, count = self.add(own * num_pixels, own.new_tensor(num_pixels))
        return total / count


class TilePasses:
    """The passes over a picture's tiles, for all layers of a network that sum up over pixels."""

    def __init__(self, layers: Sequence[PixelSums]) -> None:
        self._layers = layers

    def begin_pass(self, *, last: bool) -> None:
        """Start a pass; the last sums up no more."""
        for layer in self._layers:
            layer.begin_pass(last=last)

    def begin_tile(self) -> None:
        """Say that the network will be run on the next tile."""
        for layer in self._layers:
            layer.begin_tile()


@contextmanager
def tile_passes(network: nn.Module) -> Iterator[TilePasses]:
    """Let a network's layers sum up over tiles inside the block, and be silent after it."""
    layers = [module for module in network.modules() if isinstance(module, PixelSums)]
    try:
        yield TilePasses(layers)
    finally:
        for layer in layers:
            layer.reset()
