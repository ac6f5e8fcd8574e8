"""Draw, record, apply: several degradations of one image, one after the other.

Convention: H×W×C float32 in [0, 1], C = 3 for VI and 1 for IR.  A record holds names and numbers,
and reproduces the pixels in any process.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from degradations.catalogue import IrRanges, Modality, ViRanges, find

CHANNELS: dict[Modality, int] = {"vi": 3, "ir": 1}


class Applied(BaseModel):
    """One degradation that was drawn; `params` holds JSON numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    params: dict[str, Any]


def draw_chain(
    modality: Modality,
    names: Sequence[str],
    rng: np.random.Generator,
    *,
    ranges: ViRanges | IrRanges | None = None,
) -> tuple[Applied, ...]:
    """Draw parameters for each name in turn; without `ranges` from the catalogue's defaults."""
    chosen = _ranges_of(modality, ranges)
    chain = []
    for name in names:
        degradation = find(modality, name)
        params = degradation.draw(getattr(chosen, name), rng)
        chain.append(Applied(name=name, params=params.model_dump()))
    return tuple(chain)


def apply_chain(image: np.ndarray, modality: Modality, chain: Sequence[Applied]) -> np.ndarray:
    """Apply a recorded chain; the input stays as it was, the result is a new array in [0, 1]."""
    _check_image(image, modality)
    result = image.copy()  # H W C
    for applied in chain:
        degradation = find(modality, applied.name)
        params = degradation.params_type.model_validate(applied.params)
        result = degradation.apply(result, params)
    return result


def _ranges_of(modality: Modality, ranges: ViRanges | IrRanges | None) -> ViRanges | IrRanges:
    expected = ViRanges if modality == "vi" else IrRanges
    if ranges is None:
        return expected()
    if not isinstance(ranges, expected):
        raise ValueError(
            f"modality {modality!r} got {type(ranges).__name__}; pass {expected.__name__} or None"
        )
    return ranges


def _check_image(image: np.ndarray, modality: Modality) -> None:
    channels = CHANNELS[modality]
    if image.ndim != 3 or image.shape[2] != channels:
        raise ValueError(f"{modality} image of shape {image.shape}; pass H×W×{channels}")
    if image.dtype != np.float32 or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"{modality} image is {image.dtype} in [{image.min()}, {image.max()}]; "
            "pass float32 in [0, 1] (divide 8-bit levels by 255)"
        )
