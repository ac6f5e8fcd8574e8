"""The authors' released weight files: read without pickle's powers, mapped to our fuser."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from models import build_fuser
from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.released import OFFICIAL_FILES, import_released
from pipelines.store.files import sha256_of_file

_TOP_LEVEL_KEY = "params"


def released_paths(folder: Path) -> dict[str, Path]:
    """The four files by their short names. Raises ValueError naming the first that is absent."""
    paths = {file: folder / f"{file}.pth" for file in OFFICIAL_FILES.values()}
    for path in paths.values():
        if not path.is_file():
            names = ", ".join(f"{file}.pth" for file in paths)
            raise ValueError(f"{path}: no such file; the folder has to hold {names}")
    return paths


def read_released(folder: Path) -> DSPFusionFuser:
    """Build the full-size fuser from a folder of released files (spec 4), strictly.

    Raises ValueError naming the file and, for a key, the key.
    """
    config = DSPFusionConfig()
    files = {file: _read_file(path) for file, path in released_paths(folder).items()}
    fuser = build_fuser(config)
    fuser.load_state_dict(import_released(config, files))
    return fuser.eval()


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each released file, by its short name."""
    return {file: sha256_of_file(path) for file, path in released_paths(folder).items()}


def _read_file(path: Path) -> dict[str, Tensor]:
    """Read the state dict under the key "params"."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: cannot be read as a file of tensors only ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(_TOP_LEVEL_KEY), dict):
        raise ValueError(f"{path}: has no state dict under the key {_TOP_LEVEL_KEY!r}")
    state = content[_TOP_LEVEL_KEY]
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {key!r} is no tensor but {type(tensor).__name__}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {key!r} has values that are not finite")
    return state


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
