"""Golden vectors as maths: the fill rule, its images and noises, and the comparison with them.

All weights and inputs of a folder of golden vectors come from a pseudo-random rule, so that nothing
but the index's constants and sizes has to be known (DSPFusion spec 5).

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

# DSPFusion spec 5.6: for networks and images, absolute.
TOLERANCE = 5e-5

Arrays = Mapping[str, np.ndarray]


class Wave(BaseModel):
    """A test image: a plane wave with texture (spec 5.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: float
    amp: float
    tex: float
    fy: float
    fx: float
    cph: float
    ph: float


class Constants(BaseModel):
    """The constants of the fill rule and of the images (spec 5.2, 5.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0, lt=2**32)
    gain: float
    out_gain: float
    temp_base: float
    temp_amp: float
    time_base: float
    time_amp: float
    bias_amp: float
    norm_amp: float
    img: dict[str, Wave]


class Case(BaseModel):
    """Sizes of one case. What else the index tells of it (shapes, deviations) the arrays tell too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    B: PositiveInt = 1
    H: PositiveInt
    W: PositiveInt


class Index(BaseModel):
    """A folder's `<system>_index.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    constants: Constants
    cases: dict[str, Case]


class GoldenFolder(Protocol):
    """A folder of golden vectors that was read; `names` are its arrays' files, short."""

    @property
    def index(self) -> Index:
        """Constants of the fill rule, and sizes of the cases."""

    @property
    def names(self) -> list[str]:
        """Files of arrays: "case_a_64x64", "losses", … in order."""

    def load(self, name: str) -> Arrays:
        """Read one file. Raises ValueError when it is absent or no archive."""

    def listing(self) -> dict[str, dict[str, tuple[int, ...]]] | None:
        """Keys and shapes of the official files, in their order; None when there is no list."""

    def case_files(self) -> dict[str, Case | None]:
        """Files of the cases with the index's sizes; None for one that the index does not hold."""


def uniform(key: str, count: int, *, seed: int) -> np.ndarray:
    """v(key, 0..count-1), float64 in (-1, 1) (spec 5.1)."""
    mask = np.uint64(0xFFFFFFFF)
    crc = np.uint64(zlib.crc32(key.encode()) ^ seed)
    x = (np.arange(count, dtype=np.uint64) * np.uint64(2654435769) + crc) & mask
    x = (x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D) & mask
    x = (x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B) & mask
    x = x ^ (x >> np.uint64(16))
    return 2 * (x.astype(np.float64) + 0.5) / 2**32 - 1


def fill(key: str, shape: tuple[int, ...], constants: Constants) -> Tensor:
    """A weight of the official name `key` (spec 5.2: the first matching line wins)."""
    c = constants
    v = uniform(key, int(np.prod(shape)), seed=c.seed).reshape(shape)
    if key.endswith("temperature"):
        value = c.temp_base + c.temp_amp * v
    elif key == "time_mlp":
        value = c.time_base + c.time_amp * v
    elif len(shape) >= 2:
        gain = c.gain * (c.out_gain if key.endswith("output.weight") else 1)
        value = v * gain * np.sqrt(3 / np.prod(shape[1:]))
    elif key.endswith(".bias"):
        value = c.bias_amp * v
    else:
        value = 1 + c.norm_amp * v
    return torch.from_numpy(value.astype(np.float32))


def image(name: str, shape: tuple[int, int, int, int], constants: Constants) -> Tensor:
    """A test image B×C×H×W in [0, 1] (spec 5.3)."""
    waves = constants.img
    if name not in waves and "default" not in waves:
        raise ValueError(f"constants.img has neither {name!r} nor 'default'")
    w = waves.get(name) or waves["default"]
    b, c, y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij")
    phase = 2 * np.pi * (w.fy * y / shape[2] + w.fx * x / shape[3])
    value = w.base + w.amp * np.sin(phase + w.cph * c + 1.3 * b + w.ph)
    value += w.tex * uniform(f"input:{name}", value.size, seed=constants.seed).reshape(shape)
    return torch.from_numpy(value.clip(0, 1).astype(np.float32))


def noise(name: str, shape: tuple[int, ...], constants: Constants) -> Tensor:
    """Test noise of variance 1 (spec 5.3)."""
    count = int(np.prod(shape))
    draws = np.stack([uniform(f"{name}:{k}", count, seed=constants.seed) for k in range(12)])
    # The draws are added one after the other: the golden noise was, and order is rounding.
    total = functools.reduce(np.add, draws)
    return torch.from_numpy((0.5 * total).reshape(shape).astype(np.float32))


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
