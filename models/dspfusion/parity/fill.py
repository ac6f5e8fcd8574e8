"""How weights, images and noises of a folder of DSPFusion's golden vectors are made (spec 5.1 to 5.3).

All of them come from a pseudo-random rule, so that nothing but the index's constants and sizes has to
be known.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from models.golden import uniform

# Spec 5.6: for networks and images, absolute.
TOLERANCE = 5e-5


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
