"""Golden vectors as maths: the hash that fills them, and the comparison with them.

All weights and inputs of a folder of golden vectors come from a pseudo-random rule, which each system
has its own of. What is the same is the hash (DSPFusion spec 5.1, DRFusion spec 13).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel
from torch import Tensor

Arrays = Mapping[str, np.ndarray]
IndexT = TypeVar("IndexT", bound=BaseModel)
_Index = TypeVar("_Index", bound=BaseModel, covariant=True)


class GoldenFolder(Protocol[_Index]):
    """A folder of golden vectors that was read; `names` are its arrays' files, short."""

    @property
    def index(self) -> _Index:
        """What the folder's `<system>_index.json` says."""

    @property
    def names(self) -> list[str]:
        """Files of arrays: "case_a_64x64", "losses", … in order."""

    def load(self, name: str) -> Arrays:
        """Read one file. Raises ValueError when it is absent or no archive."""

    def listing(self) -> dict[str, Any] | None:
        """What `<system>_official_state_dict.json` says, in its order; None when there is none."""


@dataclass(frozen=True)
class Golden:
    """A system's golden vectors: what their index is, and how all of a folder is compared.

    `check` raises ValueError on what the folder lacks or what is unknown in it.
    """

    index: type[BaseModel]
    check: Callable[[GoldenFolder[Any]], Iterator[TensorComparison]]


def uniform(key: str, count: int, *, seed: int = 0) -> np.ndarray:
    """v(key, 0..count-1), float64 in (-1, 1) (DSPFusion spec 5.1, DRFusion spec 13)."""
    mask = np.uint64(0xFFFFFFFF)
    crc = np.uint64(zlib.crc32(key.encode()) ^ seed)
    x = (np.arange(count, dtype=np.uint64) * np.uint64(2654435769) + crc) & mask
    x = (x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D) & mask
    x = (x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B) & mask
    x = x ^ (x >> np.uint64(16))
    return 2 * (x.astype(np.float64) + 0.5) / 2**32 - 1


@dataclass(frozen=True)
class TensorComparison:
    """One tensor against its golden one.

    `max_relative` is the largest error over the largest golden magnitude, except for values that
    stand for themselves (losses, norms), where each is divided by its own. The tolerance binds
    the one that `relative` says.
    """

    case: str
    tensor: str
    max_absolute: float
    max_relative: float
    tolerance: float
    relative: bool

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance; an error that is not a number is not."""
        return (self.max_relative if self.relative else self.max_absolute) <= self.tolerance


def compare_tensor(
    case: str, tensor: str, ours: Tensor, golden: np.ndarray, tolerance: float
) -> TensorComparison:
    """Compare as a whole, within an absolute tolerance."""
    expected = golden.astype(np.float64)
    found = ours.detach().double().numpy()
    _check_shape(case, tensor, found, expected)
    error = float(np.abs(found - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    return TensorComparison(case, tensor, error, error / (largest or 1), tolerance, relative=False)


def compare_values(
    case: str, tensor: str, ours: object, golden: np.ndarray, tolerance: float, *, floor: float = 0
) -> TensorComparison:
    """Compare numbers one by one within a relative tolerance; none counts as below `floor`."""
    expected = np.asarray(golden, np.float64)
    found = np.asarray(ours, np.float64)
    _check_shape(case, tensor, found, expected)
    error = np.abs(found - expected)
    scale = np.maximum(np.abs(expected), floor or np.finfo(np.float64).tiny)
    return TensorComparison(
        case, tensor, float(error.max()), float((error / scale).max()), tolerance, relative=True
    )


def _check_shape(case: str, tensor: str, ours: np.ndarray, golden: np.ndarray) -> None:
    if ours.shape != golden.shape:
        raise ValueError(
            f"{case}: {tensor} is {golden.shape} in the folder, but {ours.shape} by its index"
        )


def known_arrays(
    case: str, arrays: Arrays, ours: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Go through a file's arrays. Raises ValueError for one that we have no value for."""
    for key, expected in arrays.items():
        if key not in ours:
            raise ValueError(f"{case}: nothing of ours is known for its array {key!r}")
        yield key, expected


def shape4(array: np.ndarray) -> tuple[int, int, int, int]:
    """The shape of a B×C×H×W array."""
    size, channels, height, width = array.shape
    return size, channels, height, width
