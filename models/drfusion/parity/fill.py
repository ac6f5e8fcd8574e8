"""How the weights of a folder of golden vectors are made, and the model that has them (spec 13)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.drfusion.config import DRFusionConfig
from models.drfusion.fuser import DRFusionFuser
from models.drfusion.released import UNUSED, official_name
from models.golden import uniform


class Index(BaseModel):
    """A folder's `drfusion_index.json`: its files. What else it says of them the arrays tell too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    files: dict[str, object]

    @property
    def names(self) -> list[str]:
        """The files, short: "unet_forward_64", …"""
        return [file.removeprefix("drfusion_").removesuffix(".npz") for file in self.files]


def fill(key: str, shape: tuple[int, ...]) -> Tensor:
    """A weight of the official name `key` (spec 13, fill rule)."""
    v = uniform(key, int(np.prod(shape))).reshape(shape)
    if key == "alpha":
        value = 0.5 + 0.2 * v
    elif key in UNUSED:
        value = v
    elif len(shape) >= 2:
        value = v * np.sqrt(3 / np.prod(shape[1:]))
    elif key.endswith(".bias"):
        value = 0.1 * v
    else:
        value = 1 + 0.2 * v
    return torch.from_numpy(value.astype(np.float32))


def filled_fuser(num_steps: int, *, sigma_y: float = 0.03) -> DRFusionFuser:
    """The published model with every weight by the rule, in eval mode."""
    fuser = DRFusionFuser(DRFusionConfig(num_steps=num_steps, sigma_y=sigma_y))
    network = {f"chain.unet.{key}": tensor for key, tensor in _filled_network().items()}
    others = {
        key: fill(official_name(key), tuple(tensor.shape))
        for key, tensor in fuser.state_dict().items()
        if key not in network
    }
    fuser.load_state_dict(network | others)
    return fuser.eval()


@functools.cache
def _filled_network() -> dict[str, Tensor]:
    """The network's weights, which all files share: they take seconds."""
    with torch.device("meta"):
        fuser = DRFusionFuser(DRFusionConfig())
    return {
        key: fill(official_name(f"chain.unet.{key}"), tuple(tensor.shape))
        for key, tensor in fuser.chain.unet.state_dict().items()
    }
