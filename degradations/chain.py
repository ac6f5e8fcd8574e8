"""Draw, record, apply: several degradations of one image, one after the other.

Convention: H×W×C uint8, or float32 in [0, 1], C = 3 for VI and 1 for IR.  A record holds names and numbers,
and reproduces the pixels in any process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from degradations.catalogue import IrRanges, Modality, ViRanges, find
from degradations.intervals import draw_seed

CHANNELS: dict[Modality, int] = {"vi": 3, "ir": 1}


class Applied(BaseModel):
    """One degradation that was drawn; `params` holds JSON numbers only.

    Of a recipe's own, `transform` is the serialised albumentations transform, and `params` has its
    "seed", which decides the pixels, and once it was applied "drawn", what albumentations drew from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    params: dict[str, Any]
    # Left out where there is none: the records of the catalogue's kernels keep their bytes.
    transform: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)


def draw_chain(
    modality: Modality,
    names: Sequence[str],
    rng: np.random.Generator,
    *,
    ranges: ViRanges | IrRanges | None = None,
    own: Mapping[str, dict[str, Any]] | None = None,
) -> tuple[Applied, ...]:
    """Draw parameters for each name in turn; without `ranges` from the catalogue's defaults.

    `own` holds this camera's serialised transforms by name (`own.OwnTransforms`): those get a seed.
    """
    chosen = _ranges_of(modality, ranges)
    chain = []
    for name in names:
        if own and name in own:
            params = {"seed": draw_seed(rng)}
            chain.append(Applied(name=name, params=params, transform=own[name]))
            continue
        degradation = find(modality, name)
        drawn = degradation.draw(getattr(chosen, name), rng)
        chain.append(Applied(name=name, params=drawn.model_dump()))
    return tuple(chain)


def apply_chain(image: np.ndarray, modality: Modality, chain: Sequence[Applied]) -> np.ndarray:
    """Apply a recorded chain; the input stays as it was, the result is a new array of its type."""
    return apply_and_record(image, modality, chain)[0]


def apply_and_record(
    image: np.ndarray, modality: Modality, chain: Sequence[Applied]
) -> tuple[np.ndarray, tuple[Applied, ...]]:
    """Apply a drawn chain; return the picture, uint8 if it was, and the chain with all that was drawn.

    What an albumentations transform draws can depend on the picture, so it is known only then.
    """
    is_uint8, record = image.dtype == np.uint8, []
    result = image.astype(np.float32) / np.float32(255) if is_uint8 else image.copy()  # H W C
    _check_image(result, modality)
    for applied in chain:
        if applied.transform is None:
            degradation = find(modality, applied.name)
            params = degradation.params_type.model_validate(applied.params)
            result = degradation.apply(result, params)
        else:
            # Not above: it imports albumentations, which takes seconds.
            from degradations.transforms import apply_serialised

            seed = applied.params["seed"]
            result, drawn = apply_serialised(applied.transform, result, seed)
            applied = applied.model_copy(update={"params": {"seed": seed, "drawn": drawn}})
        record.append(applied)
    if is_uint8:
        result = np.rint(result * np.float32(255)).astype(np.uint8)
    return result, tuple(record)


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
            "pass uint8, or float32 in [0, 1]"
        )
