"""Our model against the published one, and the command that says so, on two folders."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jobs import parity
from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.parity.cases import check_golden_vectors
from models.dspfusion.parity.fill import Constants, Index, Wave
from models.dspfusion.priors import DegradationEncoder, SemanticEncoder
from models.dspfusion.released import import_released, official_name
from pipelines.parity.folder import FolderOnDisk, open_golden_folder
from tests.models.dspfusion.golden import FOLDER, filled, folder, needs_golden
from tests.models.dspfusion.second_folder import write_folder

OTHER = Constants(
    seed=77,
    gain=0.9,
    out_gain=0.4,
    temp_base=3,
    temp_amp=0.5,
    time_base=0.05,
    time_amp=0.01,
    bias_amp=0.05,
    norm_amp=0.1,
    img={
        "ir": Wave(base=0.5, amp=0.3, tex=0.2, fy=3, fx=1, cph=0.1, ph=0.4),
        "default": Wave(base=0.4, amp=0.2, tex=0.3, fy=1, fx=2, cph=0.9, ph=0.2),
    },
)


@pytest.mark.slow
@needs_golden
def test_published_folder() -> None:
    """Every tensor of every file, within the tolerances of spec 5.6."""
    comparisons = list(check_golden_vectors(folder()))
    above = [comparison for comparison in comparisons if not comparison.passed]
    assert not above
    assert len(comparisons) == 183
    assert {comparison.case for comparison in comparisons} == set(folder().names)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> FolderOnDisk[Index]:
    path = tmp_path_factory.mktemp("golden")
    write_folder(path, OTHER, {"x": (3, 24, 40), "y": (1, 35, 21)}, step_px=16)
    return open_golden_folder(path, "dspfusion", Index)


def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["parity", str(path)])
    with pytest.raises(SystemExit) as ended:
        parity.COMMAND.run()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_another_folder(
    other: FolderOnDisk[Index], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other constants, sizes, batches and a folder without the official list."""
    assert run(other.path, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "case_x_24x40" in out
    assert "mid/encoder_level1/1" in out
    assert " 0 above tolerance" in out


def test_an_error_above_tolerance_is_status_1(
    other: FolderOnDisk[Index],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "case_x_24x40"
    arrays = other.load(name)
    arrays["prior"][0, 3, 5] += 1e-3
    copy_index(other, tmp_path, {"case_x": other.index.cases["case_x"].model_dump()})
    np.savez(tmp_path / f"dspfusion_{name}.npz", **arrays)
    assert run(tmp_path, monkeypatch) == 1
    (above,) = (line for line in capsys.readouterr().out.splitlines() if line.endswith("ABOVE"))
    assert " prior " in above


def copy_index(source: FolderOnDisk[Index], target: Path, cases: dict[str, object]) -> None:
    index = json.loads((source.path / "dspfusion_index.json").read_text())
    (target / "dspfusion_index.json").write_text(json.dumps(index | {"cases": cases}))


@pytest.mark.parametrize("what", ["no index", "no case", "strange file", "strange array", "size"])
def test_a_wrong_folder_is_one_line(
    what: str,
    other: FolderOnDisk[Index],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = "dspfusion_case_x_24x40.npz"
    case = {"B": 3, "H": 24, "W": 40}
    copy_index(other, tmp_path, {"case_x": case})
    shutil.copy(other.path / file, tmp_path)
    message = ""
    match what:
        case "no index":
            (tmp_path / "dspfusion_index.json").unlink()
            message = "dspfusion_index.json in it; give a folder laid out like"
        case "no case":
            (tmp_path / file).unlink()
            message = "'case_x', which no files"
        case "strange file":
            np.savez(tmp_path / "dspfusion_other.npz", x=np.zeros(1))
            message = "dspfusion_other.npz: no check is known"
        case "strange array":
            arrays = other.load("case_x_24x40")
            np.savez(tmp_path / file, **arrays, out_depth=np.zeros(1))
            message = "array 'out_depth'"
        case "size":
            copy_index(other, tmp_path, {"case_x": case | {"H": 32}})
            message = "in_ir is (3, 3, 24, 40) in the folder, but (3, 3, 32, 40)"
    assert run(tmp_path, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@needs_golden
def test_a_missing_constant_is_named(tmp_path: Path) -> None:
    index = json.loads((FOLDER / "dspfusion_index.json").read_text())
    del index["constants"]["gain"]
    (tmp_path / "dspfusion_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"constants\.gain: Field required"):
        open_golden_folder(tmp_path, "dspfusion", Index)


@needs_golden
def test_three_heads_import_leaves_their_unused_spim_out() -> None:
    config = DSPFusionConfig(prior="low_quality", three_heads=True)
    networks = {
        "net_g": ("fusion", FusionNetwork(config)),
        "net_dp": ("degradation", DegradationEncoder(config)),
        "net_sp": ("semantic", SemanticEncoder(config)),
    }
    files = {
        file: {official_name(name, key): x for key, x in network.state_dict().items()}
        for file, (name, network) in networks.items()
    }
    header_keys = {str(key) for key in folder().load("case_d_three_heads_64x64")["sfp_keys"]}
    unused = header_keys - files["net_g"].keys()
    assert len(unused) == 24
    files["net_g"] |= {key: torch.zeros(1) for key in unused}
    state = import_released(config, files)
    assert sum(key.startswith("fusion.") for key in state) == len(networks["net_g"][1].state_dict())


@needs_golden
def test_noise_matters() -> None:
    """The tolerance separates: zero noise moves the picture by 0.054 on average (spec 5.5)."""
    given = filled().pair((1, 3, 64, 64))
    fuser = filled().fuser
    ir, vi, noise = given.values()
    images = fuser.fuse_padded(vi, ir, noise)
    zero = fuser.fuse_padded(vi, ir, torch.zeros_like(noise))
    assert float(F.l1_loss(images, zero)) == pytest.approx(0.054, abs=1e-3)
