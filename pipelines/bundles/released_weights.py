"""The authors' released weight files: read without pickle's powers, mapped to our fusers."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from models import SYSTEMS
from models.system import System
from pipelines.store.files import sha256_of_file


def system_of_files(folder: Path) -> System:
    """The system whose authors publish such files. Raises ValueError naming the first that is absent."""
    known = [system for system in SYSTEMS if system.released]
    for system in known:
        if any(path.is_file() for path in _paths(system, folder).values()):
            return system
    names = "; or ".join(
        ", ".join(f"{path.name}" for path in _paths(s, folder).values()) for s in known
    )
    raise ValueError(
        f"{folder}: no such file in it; the folder has to hold {names or 'nothing known'}"
    )


def released_paths(system: System, folder: Path) -> dict[str, Path]:
    """The files by their short names. Raises ValueError naming the first that is absent."""
    paths = _paths(system, folder)
    for path in paths.values():
        if not path.is_file():
            names = ", ".join(path.name for path in paths.values())
            raise ValueError(f"{path}: no such file; the folder has to hold {names}")
    return paths


def _paths(system: System, folder: Path) -> dict[str, Path]:
    assert system.released is not None, "only systems with published weights are asked"
    return {file: folder / f"{file}.pth" for file in system.released.files}


def read_released(system: System, folder: Path) -> tuple[BaseModel, nn.Module]:
    """Config and fuser from a folder of released files, strictly.

    Raises ValueError naming the file and, for a key, the key.
    """
    assert system.released is not None, "only systems with published weights are asked"
    key, paths = system.released.state_key, released_paths(system, folder)
    files = {file: _read_file(path, key) for file, path in paths.items()}
    config, fuser = system.released.convert(files)
    return config, fuser.eval()


def digests(system: System, folder: Path) -> dict[str, str]:
    """The sha256 of each released file, by its short name."""
    return {file: sha256_of_file(path) for file, path in released_paths(system, folder).items()}


def _read_file(path: Path, state_key: str | None) -> dict[str, Tensor]:
    """Read a file's state dict, under its key where it has one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: cannot be read as a file of tensors only ({_first_line(error)})"
        ) from error
    state = content.get(state_key) if state_key and isinstance(content, dict) else content
    if not isinstance(state, dict):
        where = f" under the key {state_key!r}" if state_key else ""
        raise ValueError(f"{path}: has no state dict{where}")
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {key!r} is no tensor but {type(tensor).__name__}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {key!r} has values that are not finite")
    return state


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
