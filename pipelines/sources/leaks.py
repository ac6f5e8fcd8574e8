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
    """Two scenes of different splits that show nearly the same; bits that differ, VI and IR.

    None for a camera that one of them does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    vi_bits: int | None
    ir_bits: int | None


def find_leaks(scenes: Sequence[Scene], *, max_bits: int = MAX_DISTANCE_BITS) -> list[Leak]:
    """Compare every scene with those of other splits; a match in either camera is a leak."""
    scenes = sorted(scenes, key=lambda scene: scene.id)
    splits = np.unique([scene.split for scene in scenes], return_inverse=True)[1]
    hashes = np.array([_hashes(scene) for scene in scenes], np.uint64).reshape(-1, 2)
    present = np.array([_present(scene) for scene in scenes], bool).reshape(-1, 2)
    leaks = []
    # A block of rows at a time: the whole table of a million scenes would not fit.
    for start in range(0, len(scenes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        bits = np.bitwise_count(hashes[rows, None] ^ hashes[None])  # rows scenes 2
        compared = present[rows, None] & present[None]  # rows scenes 2
        near = ((bits <= max_bits) & compared).any(axis=2) & (splits[rows, None] != splits[None])
        for row, column in zip(*np.nonzero(near), strict=True):
            if start + row < column:
                both = zip(bits[row, column], compared[row, column], strict=True)
                vi, ir = (int(count) if known else None for count, known in both)
                first, second = scenes[start + row].id, scenes[column].id
                leaks.append(Leak(first=first, second=second, vi_bits=vi, ir_bits=ir))
    return leaks


def _hashes(scene: Scene) -> list[int]:
    hashes = zip(_present(scene), (scene.vi_phash, scene.ir_phash), strict=True)
    return [int(phash, 16) if present else 0 for present, phash in hashes]


def _present(scene: Scene) -> list[bool]:
    return [camera in scene.cameras for camera in ("vi", "ir")]
