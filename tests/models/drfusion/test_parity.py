"""Our model against the authors', in the folder and in a smaller one of our own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.drfusion import SYSTEM
from models.drfusion.parity.cases import check_golden_vectors
from models.drfusion.parity.fill import Index
from pipelines.parity.folder import FolderOnDisk, open_golden_folder
from tests.models.drfusion.golden import FOLDER, needs_golden

pytestmark = needs_golden


@pytest.mark.slow
def test_published_folder() -> None:
    """Every tensor of every file, within the tolerances of spec 13."""
    assert SYSTEM.golden is not None
    folder = open_golden_folder(FOLDER, "drfusion", Index)
    comparisons = list(SYSTEM.golden.check(folder))
    assert not [comparison for comparison in comparisons if not comparison.passed]
    assert len(comparisons) == 152
    assert {comparison.case for comparison in comparisons} == set(folder.index.names)


def part(tmp_path: Path, name: str, **changes: np.ndarray) -> FolderOnDisk[Index]:
    """A folder with one of the files, changed."""
    file = f"drfusion_{name}.npz"
    (tmp_path / "drfusion_index.json").write_text(json.dumps({"files": {file: {}}}))
    with np.load(FOLDER / file) as arrays:
        np.savez(tmp_path / file, **{**arrays, **changes})
    return open_golden_folder(tmp_path, "drfusion", Index)


def test_networks(tmp_path: Path) -> None:
    comparisons = list(check_golden_vectors(part(tmp_path, "unet_stages_32")))
    assert len(comparisons) == 67
    assert all(comparison.passed for comparison in comparisons)


def test_an_error_is_seen(tmp_path: Path) -> None:
    with np.load(FOLDER / "drfusion_operators_official.npz") as arrays:
        table = arrays["lambda_table"].copy()
    table[5, 3] += 1e-2
    comparisons = list(
        check_golden_vectors(part(tmp_path, "operators_official", lambda_table=table))
    )
    assert [c.tensor for c in comparisons if not c.passed] == ["lambda_table"]


@pytest.mark.parametrize("wrong", ["file", "strange file", "strange array", "array", "listing"])
def test_a_wrong_folder_is_named(wrong: str, tmp_path: Path) -> None:
    folder = part(tmp_path, "operators_official")
    file = tmp_path / "drfusion_operators_official.npz"
    match wrong:
        case "file":
            file.unlink()
            message = "no such file, but the index names it"
        case "strange file":
            np.savez(tmp_path / "drfusion_other.npz", x=np.zeros(1))
            message = "drfusion_other.npz: no check is known"
        case "strange array":
            folder = part(tmp_path, "operators_official", odd=np.zeros(1))
            message = "nothing of ours is known for its array 'odd'"
        case "array":
            np.savez(file, lambda_table=np.zeros((1, 7)))
            message = "lacks the array 'sr_in'"
        case _:
            shutil.copy(FOLDER / "drfusion_official_state_dict.json", tmp_path / "copy.json")
            listing = json.loads((tmp_path / "copy.json").read_text())
            listing["state_dict"]["alpha"]["shape"] = [4]
            path = tmp_path / "drfusion_official_state_dict.json"
            path.write_text(json.dumps(listing))
            message = "differ in 'alpha'"
    with pytest.raises(ValueError, match=message):
        list(check_golden_vectors(folder))
