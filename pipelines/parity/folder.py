"""A folder of golden vectors on disk: its index and its files of arrays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
from pydantic import ValidationError

from models.golden import IndexT


@dataclass(frozen=True)
class FolderOnDisk(Generic[IndexT]):
    """A folder that was read: its path, its system and the index of that."""

    path: Path
    system: str
    index: IndexT

    @property
    def names(self) -> list[str]:
        """Files of arrays: "case_a_64x64", "losses", … in order."""
        prefix = f"{self.system}_"
        return sorted(file.stem.removeprefix(prefix) for file in self.path.glob(f"{prefix}*.npz"))

    def load(self, name: str) -> dict[str, np.ndarray]:
        """Read one file. Raises ValueError when it is absent or no archive."""
        path = self.path / f"{self.system}_{name}.npz"
        try:
            with np.load(path) as arrays:
                return dict(arrays)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file, but the index names it") from error
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not an .npz of arrays ({error})") from error

    def listing(self) -> dict[str, Any] | None:
        """What `<system>_official_state_dict.json` says, in its order; None when there is none."""
        path = self.path / f"{self.system}_official_state_dict.json"
        if not path.is_file():
            return None
        listed: dict[str, Any] = json.loads(path.read_text())
        return listed


def systems_in(path: Path, known: Sequence[str]) -> list[str]:
    """Which of the known systems a folder has an index of. Raises ValueError for none."""
    found = [name for name in known if (path / f"{name}_index.json").is_file()]
    if not found:
        wanted = " or ".join(f"{name}_index.json" for name in known)
        raise ValueError(f"{path}: no {wanted} in it; give a folder laid out like shared/parity")
    return found


def open_golden_folder(path: Path, system: str, kind: type[IndexT]) -> FolderOnDisk[IndexT]:
    """Read a system's index of a `kind`. Raises ValueError naming what is missing or unknown in it."""
    file = path / f"{system}_index.json"
    try:
        index = kind.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {where}: {first['msg']}") from error
    return FolderOnDisk(path, system, index)
