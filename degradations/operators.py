"""What a recorded chain did, in numbers: the operator of the linear degradations, a task's index.

The observation model is y = A x + n (DRFusion spec, section 5): A is a blur and then a low resolution,
n is white Gaussian noise, added before the low resolution or after it.  A chain in which anything comes
before the blur is none of these.
"""

import math
from collections.abc import Sequence

import numpy as np

from degradations.blur import BlurParams
from degradations.catalogue import CLEAN, Modality, find, is_known, names
from degradations.chain import Applied
from degradations.noise import GaussianNoiseParams
from degradations.resolution import LowResolutionParams

# In the place of a degradation: the system that is asked shall find out. No line of the catalogue has it.
AUTO = "auto"
AUTO_TASK = -1
_BLURS = ("blur", "gaussian_blur")
_LINEAR = (*_BLURS, "low_resolution", "gaussian_noise")


def is_linear(modality: Modality, names: Sequence[str]) -> bool:
    """Whether `operator_numbers` knows these degradations of this camera, one after the other."""
    linear = all(is_known(modality, name) and find(modality, name).linear for name in names)
    return linear and _is_in_order(names)


def operator_numbers(chain: Sequence[Applied]) -> np.ndarray:
    """Float32 [3]: std of the noise in grey levels of [0, 1], sigma of the blur in pixels, block side.

    The noise is that of the pixels of the picture.  A clean picture is (0, 0, 1).  Raises ValueError
    when a degradation is not linear, occurs twice, or comes before the blur.
    """
    numbers = np.array([0, 0, 1], np.float32)
    for applied in chain:
        if applied.name in _BLURS:
            numbers[1] = BlurParams.model_validate(applied.params).sigma_px
        elif applied.name == "low_resolution":
            numbers[2] = LowResolutionParams.model_validate(applied.params).factor
            # Noise that was added before is averaged over a block (spec 5, iv); D x + n is not.
            numbers[0] /= numbers[2]
        elif applied.name == "gaussian_noise":
            numbers[0] = GaussianNoiseParams.model_validate(applied.params).sigma_level / 255
        else:
            raise ValueError(
                f"{applied.name!r} has no linear operator; those that have one: {', '.join(_LINEAR)}"
            )
    _check_order([applied.name for applied in chain])
    return numbers


def block_side(chain: Sequence[Applied]) -> int:
    """Side in pixels of the blocks of equal pixels that a low resolution leaves; 1 without any."""
    coarse = [applied for applied in chain if applied.name == "low_resolution"]
    return math.lcm(*(LowResolutionParams.model_validate(one.params).factor for one in coarse))


def _is_in_order(applied: Sequence[str]) -> bool:
    # Both blurs are one kind: they are the same kernel in two suites.
    kinds = ["blur" if name in _BLURS else name for name in applied]
    return len(set(kinds)) == len(kinds) and "blur" not in kinds[1:]


def _check_order(applied: Sequence[str]) -> None:
    if not _is_in_order(applied):
        raise ValueError(
            f"the chain {' -> '.join(applied)} is not blur -> low_resolution and gaussian_noise, each "
            "once at most; only that order is the observation model y = A x + n"
        )


def task_names(modality: Modality) -> tuple[str, ...]:
    """Everything that a picture of one camera may suffer, by task number; 0 is "clean"."""
    return (CLEAN, *names(modality), *names(modality, suite="drfusion"))


def task_number(modality: Modality, chain: Sequence[Applied]) -> int:
    """Index in `task_names` of what a picture suffers; `AUTO_TASK` where the system shall find out.

    Raises ValueError for a chain of several degradations, for which no prompt is defined yet.
    """
    if len(chain) > 1:
        shown = ", ".join(applied.name for applied in chain)
        raise ValueError(
            f"{shown}: tasks of several degradations are not defined; pass one or none"
        )
    if not chain:
        return 0  # clean
    name = chain[0].name
    return AUTO_TASK if name == AUTO else task_names(modality).index(find(modality, name).name)
