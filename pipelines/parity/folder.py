"""A folder of golden vectors on disk: its index and its files of arrays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.golden import Case, Index


@dataclass(frozen=True)
class FolderOnDisk:
    """A folder that was read: its path, its system and the index of that."""

    path: Path
    system: str
    index: Index

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

    def listing(self) -> dict[str, dict[str, tuple[int, ...]]] | None:
        """Keys and shapes of the official files, in their order; None when there is no list."""
        path = self.path / f"{self.system}_official_state_dict.json"
        if not path.is_file():
            return None
        files = json.loads(path.read_text())
        return {
            file: {key: tuple(entry["shape"]) for key, entry in content["state_dict"].items()}
            for file, content in files.items()
            if not file.startswith("_")
        }

    def case_files(self) -> dict[str, Case | None]:
        """Files of the cases with the index's sizes; None for one that the index does not hold.

        Raises ValueError for a case of the index without its file.
        """
        files: dict[str, Case | None] = {n: None for n in self.names if n.startswith("case_")}
        for name, case in self.index.cases.items():
            found = [file for file in files if file == name or file.startswith(f"{name}_")]
            if len(found) != 1:
                raise ValueError(
                    f"{self.path}: the index names the case {name!r}, which "
                    f"{len(found) or 'no'} files {self.system}_{name}*.npz hold"
                )
            files[found[0]] = case
        return files


def systems_in(path: Path, known: Sequence[str]) -> list[str]:
    """Which of the known systems a folder has an index of. Raises ValueError for none."""
    found = [name for name in known if (path / f"{name}_index.json").is_file()]
    if not found:
        wanted = " or ".join(f"{name}_index.json" for name in known)
        raise ValueError(f"{path}: no {wanted} in it; give a folder laid out like shared/parity")
    return found


def open_golden_folder(path: Path, system: str) -> FolderOnDisk:
    """Read a system's index. Raises ValueError naming what is missing or unknown in it."""
    file = path / f"{system}_index.json"
    try:
        index = Index.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {where}: {first['msg']}") from error
    return FolderOnDisk(path, system, index)
