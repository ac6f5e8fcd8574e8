"""Checkpoints: a folder of safetensors and JSON, no pickled classes.

config.json             the complete training configuration: rebuilds the model without a recipe
model.safetensors       the objective's state
optimizer.safetensors   the optimiser's moments, by parameter name
average.safetensors     the running average of the state, where one is kept
best.safetensors        the state (or its average) at the best validation so far, where there was one
state.json              the step, which file is the model, and the digests of all; written last
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipelines.store.files import full_disk_named, sha256_of_file, write_whole

_MODEL, _OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_AVERAGE, _BEST = "average.safetensors", "best.safetensors"


class Best(BaseModel):
    """The best validation so far, its step, and how many came since; `subject` is what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    step: int = Field(ge=0, le=10**9)
    value: float
    num_since: int = Field(default=0, ge=0)


class CheckpointState(BaseModel):
    """The `state.json`: `step` optimiser steps are done; digests reveal a truncated file.

    `model` is the file of the weights that stand for the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0, le=10**9)
    sha256: dict[str, str]
    model: Literal["model.safetensors", "average.safetensors", "best.safetensors"] = (
        "model.safetensors"
    )
    best: Best | None = None


@dataclass
class BestSoFar:
    """The best validation of a training and the weights that it had, on the CPU; none before the first.

    One of another `subject` (other scenes, another metric) is not compared with: it is not loaded.
    """

    subject: str = ""
    found: Best | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingState:
    """What changes from step to step: the model, the optimiser, a running average or None, the best so far.

    `rate_shares` are the shares of the learning rate of the optimiser's parameter groups.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate_shares: tuple[float, ...]
    averaged: AveragedModel | None
    best: BestSoFar = field(default_factory=BestSoFar)

    @property
    def shown(self) -> Mapping[str, Tensor]:
        """The weights that are measured and shown: the running average if there is one."""
        return (self.averaged.module if self.averaged else self.model).state_dict()


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    *,
    step: int,
    config_json: str,
    registers: Literal["best", "last"] = "last",
) -> None:
    """Write a checkpoint after `step` steps into a new folder. Raises OSError on a full disk.

    `registers` says which weights stand for the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", config_json.encode())
    model, optimizer = state.model, state.optimizer
    tensors = {_MODEL: model.state_dict(), _OPTIMIZER: _optimizer_state(model, optimizer)}
    if state.averaged is not None:
        tensors[_AVERAGE] = state.averaged.module.state_dict()
    if state.best.found:
        tensors[_BEST] = dict(state.best.weights)
    for name, content in tensors.items():
        with full_disk_named(folder / name):
            save_file(_contiguous(content), folder / name)
    digests = {name: sha256_of_file(folder / name) for name in ("config.json", *tensors)}
    last = _AVERAGE if state.averaged else _MODEL
    shown = _BEST if state.best.found and registers == "best" else last
    saved = CheckpointState(step=step, sha256=digests, model=shown, best=state.best.found)
    write_whole(folder / "state.json", saved.model_dump_json().encode())


def resume_newest(folders: Iterable[Path], state: TrainingState) -> int:
    """Load the newest checkpoint that is whole for every rank; return the step to resume from.

    `folders` come newest first. 0 when there is no checkpoint. Warns of what is passed over: a copy may
    be damaged on one node only, and ranks that start at different steps would wait for each other for
    ever. Raises ValueError on every rank when none is whole for all.
    """
    left, broken = iter(folders), list[str]()
    newest = step = _load_next(left, state, broken)
    while len(set(steps := _all_ranks(step, state))) > 1:
        if step > min(steps):
            step = _load_next(left, state, broken)
    if step < 0 and max(_all_ranks(max(newest, len(broken) - 1), state)) >= 0:
        reasons = "; ".join(broken) or "this rank's are whole, or it has none"
        raise ValueError(f"no checkpoint is whole: {reasons}")
    if newest > step:
        broken.append(f"the checkpoint of step {newest} is not whole for every rank")
    for reason in broken:
        warnings.warn(f"{reason}; resuming from step {step}", stacklevel=2)
    return max(step, 0)


def _load_next(left: Iterator[Path], state: TrainingState, broken: list[str]) -> int:
    """Load the next checkpoint that is whole, noting the others; its step, -1 when there is none."""
    for folder in left:
        try:
            return load_checkpoint(folder, state)
        except ValueError as error:
            broken.append(str(error))
    return -1


def _all_ranks(number: int, state: TrainingState) -> list[int]:
    """The number that each rank gives."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [number]
    mine = torch.tensor(number, device=next(state.model.parameters()).device)
    numbers = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(numbers, mine)
    return [int(each) for each in numbers]


def load_checkpoint(folder: Path, state: TrainingState) -> int:
    """Restore `state` in place; return the step to resume from.

    Raises ValueError, and changes nothing, when a file is missing or truncated.
    """
    saved = read_state(folder)
    weights, moments = (_tensors(folder, name, saved) for name in (_MODEL, _OPTIMIZER))
    average = None
    if state.averaged is not None:
        average = _tensors(folder, _AVERAGE, saved)
    best = saved.best if saved.best and saved.best.subject == state.best.subject else None
    best_weights = _tensors(folder, _BEST, saved) if best else {}
    load_weights(state.model, weights, folder)
    _restore_optimizer(state.model, state.optimizer, moments, folder)
    if state.averaged is not None and average is not None:
        load_weights(state.averaged.module, average, folder)
        state.averaged.n_averaged.fill_(
            saved.step
        )  # 0 would mean: take the next weights as they are
    state.best.found, state.best.weights = best, best_weights
    return saved.step


def read_state(folder: Path) -> CheckpointState:
    """Read `state.json`. Raises ValueError when the folder is not a checkpoint."""
    path = folder / "state.json"
    if not path.is_file():
        raise ValueError(f"{folder}: not a checkpoint (no state.json)")
    try:
        return CheckpointState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: cut short or not ours ({error})") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights that stand for the model; digests are checked."""
    saved = read_state(folder)
    return _tensors(folder, saved.model, saved)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load a state into a model. Raises ValueError when it is another model's: names or shapes."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{source}: the weights are not this model's ({error})") from error


def tensors_of(path: Path, data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file's bytes; runs nothing.

    Raises ValueError when it is not one, and for a value that is not finite.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values; use other weights")
    return tensors


def weights_file(folder: Path) -> Path:
    """The file of a checkpoint whose weights stand for the model: the last, their average, or the best."""
    return folder / read_state(folder).model


def read_config(folder: Path) -> dict[str, object]:
    """Read the `config.json` beside the weights."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: has no config.json; it is not one of our checkpoints or bundles"
        )
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds no configuration")
    return config


def _tensors(folder: Path, name: str, state: CheckpointState) -> dict[str, Tensor]:
    return tensors_of(folder / name, _checked_bytes(folder, name, state))


def _checked_bytes(folder: Path, name: str, state: CheckpointState) -> bytes:
    path = folder / name
    if not path.is_file() or sha256_of_file(path) != state.sha256.get(name):
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
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], source: Path
) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        by_name.setdefault(name, {})[moment] = value
    _check_moments(by_name, dict(model.named_parameters()), source)
    for name, parameter in model.named_parameters():
        if name in by_name:
            # AdamW keeps `step` as a CPU scalar and the moments beside the parameter.
            optimizer.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device)
                for moment, value in by_name[name].items()
            }


def _check_moments(
    by_name: Mapping[str, Mapping[str, Tensor]], parameters: Mapping[str, Tensor], source: Path
) -> None:
    """Raise ValueError for moments of other parameters, of other shapes, or that are not complete."""
    kinds = {moment for moments in by_name.values() for moment in moments}
    for name, moments in by_name.items():
        if name not in parameters or moments.keys() != kinds:
            raise ValueError(f"{source}: the optimiser's moments of {name} are not this model's")
        for moment, value in moments.items():
            shape = torch.Size() if moment == "step" else parameters[name].shape
            if value.shape != shape:
                raise ValueError(f"{source}: {name}/{moment} is not of this model's shape")
