"""Checkpoints: a folder of safetensors and JSON, no pickled classes.

config.json             the complete training configuration: rebuilds the model without a recipe
model.safetensors       the objective's state
optimizer.safetensors   AdamW's moments, by parameter name
state.json              the step, and the digests of the two files above; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save_file
from torch import Tensor, nn

from pipelines.files import sha256_of_file, write_whole


class CheckpointState(BaseModel):
    """The `state.json`: `step` optimiser steps are done; digests tell a truncated file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    sha256: dict[str, str]


def save_checkpoint(
    folder: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, config_json: str
) -> None:
    """Write a checkpoint of `model` and `optimizer` after `step` steps into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", config_json.encode())
    save_file(_contiguous(model.state_dict()), folder / "model.safetensors")
    save_file(_contiguous(_optimizer_state(model, optimizer)), folder / "optimizer.safetensors")
    names = ("model.safetensors", "optimizer.safetensors", "config.json")
    state = CheckpointState(
        step=step, sha256={name: sha256_of_file(folder / name) for name in names}
    )
    write_whole(folder / "state.json", state.model_dump_json().encode())


def load_checkpoint(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore `model` and `optimizer` in place; return the step to go on from."""
    state = read_state(folder)
    model.load_state_dict(read_weights(folder))
    moments = load(_checked_bytes(folder, "optimizer.safetensors", state))
    _restore_optimizer(model, optimizer, moments)
    return state.step


def read_state(folder: Path) -> CheckpointState:
    """Read `state.json`. Raises ValueError when the folder is not a checkpoint."""
    path = folder / "state.json"
    if not path.is_file():
        raise ValueError(f"{folder}: not a checkpoint (no state.json)")
    return CheckpointState.model_validate_json(path.read_bytes())


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the objective's weights, checked against their digest."""
    return load(_checked_bytes(folder, "model.safetensors", read_state(folder)))


def read_config(folder: Path) -> dict[str, object]:
    """Read the `config.json` beside the weights."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: has no config.json; it is not one of our checkpoints or bundles"
        )
    config = json.loads(path.read_text())
    assert isinstance(config, dict)
    return config


def _checked_bytes(folder: Path, name: str, state: CheckpointState) -> bytes:
    path = folder / name
    if not path.is_file() or sha256_of_file(path) != state.sha256[name]:
        raise ValueError(f"{path}: missing or truncated; use the checkpoint before it")
    return path.read_bytes()


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            moments[f"{name}/{key}"] = value
    return moments


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        by_name.setdefault(name, {})[moment] = value
    for name, parameter in model.named_parameters():
        if name in by_name:
            # AdamW keeps `step` as a CPU scalar and the moments beside the parameter.
            optimizer.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device)
                for moment, value in by_name[name].items()
            }
