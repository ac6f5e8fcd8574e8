"""Golden vectors of the published model: where they lie, and the pseudo-random inputs (spec 5).

Shapes: B batch, C channels, H W pixels, N prior tokens, D prior width.
"""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.released import OFFICIAL_FILES, import_released, official_name

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "parity"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="golden vectors absent: ../shared/parity is not on this machine"
)


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"dspfusion_{name}.npz") as arrays:
        return dict(arrays)


@functools.cache
def index() -> dict[str, Any]:
    return json.loads((FOLDER / "dspfusion_index.json").read_text())


@functools.cache
def official_shapes(file: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one official file ("net_g", ...), in its order."""
    listing = json.loads((FOLDER / "dspfusion_official_state_dict.json").read_text())
    return {key: tuple(entry["shape"]) for key, entry in listing[file]["state_dict"].items()}


def uniform(key: str, count: int) -> np.ndarray:
    """v(key, 0..count-1) of spec 5.1, float64 in (-1, 1)."""
    mask = np.uint64(0xFFFFFFFF)
    crc = np.uint64(zlib.crc32(key.encode()) ^ index()["constants"]["seed"])
    x = (np.arange(count, dtype=np.uint64) * np.uint64(2654435769) + crc) & mask
    x = (x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D) & mask
    x = (x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B) & mask
    x = x ^ (x >> np.uint64(16))
    return 2 * (x.astype(np.float64) + 0.5) / 2**32 - 1


def fill(key: str, shape: tuple[int, ...]) -> Tensor:
    """A weight by the fill rule of spec 5.2."""
    c = index()["constants"]
    v = uniform(key, int(np.prod(shape))).reshape(shape)
    if key.endswith("temperature"):
        value = c["temp_base"] + c["temp_amp"] * v
    elif key == "time_mlp":
        value = c["time_base"] + c["time_amp"] * v
    elif len(shape) >= 2:
        gain = c["gain"] * (c["out_gain"] if key.endswith("output.weight") else 1)
        value = v * gain * np.sqrt(3 / np.prod(shape[1:]))
    elif key.endswith(".bias"):
        value = c["bias_amp"] * v
    else:
        value = 1 + c["norm_amp"] * v
    return torch.from_numpy(value.astype(np.float32))


def image(name: str, shape: tuple[int, int, int, int]) -> Tensor:
    """A test image B×C×H×W in [0, 1] (spec 5.3)."""
    wave = index()["constants"]["img"]
    w = wave.get(name, wave["default"])
    b, c, y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij")
    phase = 2 * np.pi * (w["fy"] * y / shape[2] + w["fx"] * x / shape[3])
    value = w["base"] + w["amp"] * np.sin(phase + w["cph"] * c + 1.3 * b + w["ph"])
    value += w["tex"] * uniform(f"input:{name}", value.size).reshape(shape)
    return torch.from_numpy(value.clip(0, 1).astype(np.float32))


def noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Test noise of variance 1 (spec 5.3)."""
    total = sum(uniform(f"{name}:{k}", int(np.prod(shape))) for k in range(12))
    return torch.from_numpy((0.5 * total).reshape(shape).astype(np.float32))


@functools.cache
def filled_fuser() -> DSPFusionFuser:
    """The full-size fuser with every weight filled by the rule, through the released mapping."""
    files = {
        file: {key: fill(key, shape) for key, shape in official_shapes(file).items()}
        for file in OFFICIAL_FILES.values()
    }
    fuser = DSPFusionFuser(DSPFusionConfig())
    fuser.load_state_dict(import_released(DSPFusionConfig(), files))
    return fuser.eval().requires_grad_(False)


def gradient_norms(networks: dict[Any, nn.Module]) -> dict[str, float]:
    """Norm of each gradient under its official "<file>/<key>"."""
    return {
        f"{OFFICIAL_FILES[network]}/{official_name(network, key)}": float(parameter.grad.norm())
        for network, module in networks.items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def worst(ours: Tensor, theirs: np.ndarray) -> float:
    """Largest absolute difference; shapes must agree."""
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.detach().double().numpy() - theirs.astype(np.float64)).max())
