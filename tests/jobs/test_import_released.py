"""Files under the authors' names and keys, from disk to a registered version that fuses."""

import sys
from pathlib import Path

import pytest
import torch

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.import_released import __main__ as import_released
from jobs.import_released.run import import_files
from models.dspfusion.parity.fill import Constants, Wave, image, noise
from pipelines.bundles.export import read_bundle
from pipelines.store.files import sha256_of_file
from tests.models.dspfusion.golden import filled_reference
from tests.models.dspfusion.reference import Reference
from tests.settings import embedded_settings

CONSTANTS = Constants(
    seed=5,
    gain=1,
    out_gain=0.25,
    temp_base=4,
    temp_amp=1,
    time_base=0.1,
    time_amp=0.02,
    bias_amp=0.1,
    norm_amp=0.2,
    img={"default": Wave(base=0.45, amp=0.25, tex=0.2, fy=3, fx=1, cph=0.4, ph=0.5)},
)
NAMES = ("net_g", "net_dp", "net_sp", "net_dm")


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The networks whose own keys are the authors'."""
    return filled_reference(CONSTANTS)


@pytest.fixture
def released(reference: Reference, tmp_path: Path) -> Path:
    """The four files, with the wrapper's prefix and the profiler's left-overs in one of them."""
    folder = tmp_path / "released"
    folder.mkdir()
    for name in NAMES:
        state = dict(getattr(reference, name).state_dict())
        if name == "net_dp":
            state = {f"module.{key}": x for key, x in state.items()} | {"total_ops": torch.ones(1)}
        torch.save({"params": state}, folder / f"{name}.pth")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return embedded_settings(tmp_path)


@pytest.mark.slow
def test_import_registers_what_the_authors_networks_compute(
    released: Path, settings: Settings, reference: Reference, tmp_path: Path
) -> None:
    uri = import_files(released, settings, name="theirs")
    assert uri == "models:/theirs/1"
    client = tracking.connect(settings)
    version = registry.find_model(client, uri)
    assert version.tags["origin"] == "released"
    assert version.tags["sha256_net_g"] == sha256_of_file(released / "net_g.pth")
    assert version.run_id == version.tags["run_id"]
    fuser = read_bundle(registry.fetch_bundle(client, version, tmp_path / "fetched")).fuser()
    vi, ir = image("vi", (1, 3, 24, 32), CONSTANTS), image("ir", (1, 1, 24, 32), CONSTANTS)
    x_T = noise("noise", (1, 16, 256), CONSTANTS)
    with torch.no_grad():
        theirs = reference(ir.expand(-1, 3, -1, -1), vi, x_T)
        torch.testing.assert_close(fuser(vi, ir, noise=x_T).fused, theirs, atol=5e-5, rtol=0)
    assert import_files(released, settings, name="theirs") == uri  # Nothing is registered twice.


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("net_g", {"output.weight": None}, "net_g lacks the key 'output.weight'"),
        ("net_sp", {"ema": torch.zeros(1)}, "net_sp has the key 'ema'"),
        ("net_dm", {"time_mlp": torch.zeros(2)}, "net_dm: 'time_mlp' has shape (2,)"),
        ("net_dm", {"time_mlp": "text"}, "'time_mlp' is no tensor but str"),
        ("net_dm", {"time_mlp": torch.full((1,), torch.nan)}, "'time_mlp' has values"),
    ],
)
def test_a_wrong_key_is_named(
    name: str,
    change: dict[str, object],
    message: str,
    released: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = released / f"{name}.pth"
    state = torch.load(path)["params"] | change
    torch.save({"params": {k: v for k, v in state.items() if v is not None}}, path)
    assert message in refusal(released, tmp_path, monkeypatch, capsys)


def test_wrong_files_are_named(
    released: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (released / "net_dm.pth").write_bytes(b"no archive")
    assert "net_dm.pth: cannot be read" in refusal(released, tmp_path, monkeypatch, capsys)
    torch.save(torch.nn.Linear(1, 1), released / "net_dm.pth")  # Code, which we do not run.
    assert "net_dm.pth: cannot be read" in refusal(released, tmp_path, monkeypatch, capsys)
    torch.save({"state_dict": {}}, released / "net_dm.pth")
    assert "under the key 'params'" in refusal(released, tmp_path, monkeypatch, capsys)
    (released / "net_dm.pth").unlink()
    assert "net_dm.pth: no such file" in refusal(released, tmp_path, monkeypatch, capsys)


def refusal(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The one line that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["import", str(folder), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as ended:
        import_released.COMMAND.run()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
