"""Temporal flicker of fused frames: how much a picture changes where the scene does not.

Legend: H W pixels, C channels; frames are uint8 H×W×C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from pipelines.sources.pictures import grey_of

# Sundaram et al. 2010, as in Ruder et al. 2016: where motion there and back disagree, one frame
# shows what the other hides.
_SHARE, _OFFSET = 0.01, 0.5


class Motion(NamedTuple):
    """From a frame to the one before: the way of each pixel (H×W×2), and which pixels both show (H×W)."""

    there: np.ndarray
    seen: np.ndarray


def flicker(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[float]:
    """The warping error of each fused frame but the first; takes (fused, visible) in order of time."""
    for (before, vi_before), (fused, vi) in pairwise(frames):
        yield warping_error(before, fused, motion(vi_before, vi))


def warping_error(before: np.ndarray, fused: np.ndarray, moves: Motion) -> float:
    """How far a fused frame is from the one before, in squared levels; lower is steadier.

    Mean squared difference of a frame's grey levels from those of the frame before, moved along the
    optical flow of the visible sources, over the pixels that both show (warping error: Lai et al. 2018).
    All methods have the same flow, so they compare; what the sources themselves change is in all of
    them. NaN where no pixel is in both.
    """
    moved = _moved(grey_of(before).astype(np.float32), moves.there)
    errors = (grey_of(fused) - moved)[moves.seen] ** 2
    return float(errors.mean()) if errors.size else float("nan")


def motion(vi_before: np.ndarray, vi: np.ndarray) -> Motion:
    """The motion between two frames of the visible camera."""
    there, back = _flow(vi, vi_before), _flow(vi_before, vi)  # H W 2
    return Motion(there, _visible(there, back))


def _flow(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where each pixel of `start` lies in `end`: dense inverse search (Kroeger et al. 2016)."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(grey_of(start), grey_of(end), np.zeros(0, np.float32)))


def _visible(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """The pixels whose motion there and back agrees, and ends within the frame."""
    returned = np.stack([_moved(back[..., i], there) for i in range(2)], axis=-1)
    lengths = [np.square(x).sum(axis=-1) for x in (there + returned, there, returned)]
    x, y = _places(there)
    height, width = x.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    agree: np.ndarray = lengths[0] <= _SHARE * (lengths[1] + lengths[2]) + _OFFSET
    return agree & inside


def _moved(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    x, y = _places(flow)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(flow.shape[:2], np.float32)
    return columns + flow[..., 0], rows + flow[..., 1]
