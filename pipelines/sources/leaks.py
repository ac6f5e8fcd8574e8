"""Pictures that are nearly the same, by perceptual hash: the leaks between splits.

The hash of a picture is 64 signs of its lowest cosine coefficients (32×32 grey, 8×8 kept, each
against their median), so it survives scaling, JPEG and palettes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipelines.sources.scenes import Scene

# On seven published sets no two scenes of different splits come nearer than 14 bits, and the one
# split that is known to share a camera (DSPFusion's LLVIP scenes) comes to 10.
MAX_DISTANCE_BITS = 10
_BLOCK = 1024


class Leak(BaseModel):
    """Two scenes of different splits that show nearly the same; bits that differ, VI and IR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    vi_bits: int
    ir_bits: int


def find_leaks(scenes: Sequence[Scene], *, max_bits: int = MAX_DISTANCE_BITS) -> list[Leak]:
    """Compare every scene with those of other splits; a match in either camera is a leak."""
    scenes = sorted(scenes, key=lambda scene: scene.id)
    splits = np.unique([scene.split for scene in scenes], return_inverse=True)[1]
    hashes = np.array(
        [[int(scene.vi_phash, 16), int(scene.ir_phash, 16)] for scene in scenes], np.uint64
    ).reshape(-1, 2)
    leaks = []
    # A block of rows at a time: the whole table of a million scenes would not fit.
    for start in range(0, len(scenes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        bits = np.bitwise_count(hashes[rows, None] ^ hashes[None])  # rows scenes 2
        near = (bits <= max_bits).any(axis=2) & (splits[rows, None] != splits[None])
        for row, column in zip(*np.nonzero(near), strict=True):
            if start + row < column:
                leaks.append(
                    Leak(
                        first=scenes[start + row].id,
                        second=scenes[column].id,
                        vi_bits=int(bits[row, column, 0]),
                        ir_bits=int(bits[row, column, 1]),
                    )
                )
    return leaks
