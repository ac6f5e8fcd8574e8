"""Models from elsewhere: nothing in a program runs but torch's functions on tensors, and no width is
believed before the weights agree."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.dspfusion.config import Stage1Config, tiny
from pipelines.bundles.export import fuser_of_checkpoint, read_bundle
from pipelines.bundles.programs import load_program
from pipelines.training.checkpoints import save_checkpoint
from pipelines.training.process_memory import own_peak_mib, restart_peak
from tests.contracts.test_security import CODE, Evil, state_of

GRAPH, EXAMPLE = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, WEIGHT = "data/weights/model_weights_config.json", "data/weights/weight_0"
CONSTANTS = "data/constants/model_constants_config.json"


class Mean(nn.Module):
    """As small as a program can be that has a weight, sizes that are free, and a guard."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))

    def forward(self, vi: Tensor, ir: Tensor) -> Tensor:
        return self.weight * (vi + ir).flatten(2).unflatten(2, vi.shape[2:])


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a good program's archive."""
    path = tmp_path_factory.mktemp("program") / "program.pt2"
    height, width = 8 * torch.export.Dim("rows", min=2), 8 * torch.export.Dim("columns", min=2)
    shape = {0: torch.export.Dim("batch", min=1), 2: height, 3: width}
    pair = torch.rand(2, 3, 40, 48), torch.rand(2, 1, 40, 48)
    torch.export.save(torch.export.export(Mean(), pair, dynamic_shapes=(shape, shape)), path)
    from torch.export.pt2_archive._package import PT2ArchiveReader  # a second of every process

    reader = PT2ArchiveReader(str(path))
    own = ("archive_format", "archive_version", "byteorder")
    names = [name for name in reader.get_file_names() if name not in own and name[0] != "."]
    return {name: reader.read_bytes(name) for name in names}


def write(path: Path, members: dict[str, bytes]) -> Path:
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    with PT2ArchiveWriter(str(path)) as writer:
        for name, data in members.items():
            writer.write_bytes(name, data)
    return path


def evil_tensor(canary: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Evil(canary), stream)
    return stream.getvalue()


def test_the_good_one_runs(members: dict[str, bytes], tmp_path: Path) -> None:
    program = load_program(write(tmp_path / "good.pt2", members))
    vi, ir = torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 24)
    torch.testing.assert_close(program(vi, ir), 0.5 * (vi + ir))
    assert json.loads(members[GRAPH])["guards_code"]  # or what is tried below would be for nothing


def test_an_example_that_is_a_pickle_is_not_read(members: dict[str, bytes], tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    path = write(tmp_path / "evil.pt2", members | {EXAMPLE: evil_tensor(canary)})
    with pytest.raises((AssertionError, TypeError)):  # after it has run it
        torch.export.load(path)
    assert canary.exists()
    canary.unlink()
    load_program(path)
    assert not canary.exists()


class WithoutPrior(nn.Module):
    """As a network whose semantic prior is cut off: it has a prior of no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = torch.zeros(1, 0)

    def forward(self, vi: Tensor) -> Tensor:
        return torch.cat([vi, self.prior.expand(len(vi), -1)], 1)


def test_a_tensor_without_elements_is_no_attack(tmp_path: Path) -> None:
    vi = torch.rand(2, 3)
    torch.export.save(torch.export.export(WithoutPrior(), (vi,)), tmp_path / "good.pt2")
    assert torch.equal(load_program(tmp_path / "good.pt2")(vi), vi)


def edited(data: bytes, edit: Callable[[Any], None]) -> bytes:
    value = json.loads(data)
    edit(value)
    return json.dumps(value).encode()


def _first(value: Any, key: str) -> dict[str, Any]:
    """The first object below that has a key."""
    if isinstance(value, dict) and key in value:
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in inside if (found := _first(item, key))), {})


def pickled(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def opaque(config: Any) -> None:
    config["config"]["x"] = {
        "path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None,
    }  # fmt: skip


def huge(config: Any) -> None:
    next(iter(config["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 2**40}]


ATTACKS: dict[str, Callable[[dict[str, bytes], Path], dict[str, bytes]]] = {
    "a weight": lambda good, ran: {
        WEIGHTS: edited(good[WEIGHTS], pickled), WEIGHT: evil_tensor(ran),
    },
    "weights as they were written once": lambda _, ran: {
        "data/weights/model.pt": evil_tensor(ran)
    },
    "a constant": lambda good, ran: {
        CONSTANTS: edited(good[CONSTANTS], opaque),
        "data/constants/opaque_obj_0": pickle.dumps(Evil(ran)),
    },
    "a library": lambda *_: {"data/aotinductor/model/x.so": b"\x7fELF"},
    "a weight of nothing that claims 4 TB": lambda good, _: {
        WEIGHTS: edited(good[WEIGHTS], huge), WEIGHT: b"",
    },
    "a function that is none of tensors": lambda good, _: {
        GRAPH: edited(good[GRAPH], lambda x: _first(x, "target").update(target="torch.os.system"))
    },
    "a function that opens files": lambda good, _: {
        GRAPH: edited(
            good[GRAPH],
            lambda x: _first(x, "target").update(target="torch.ops.aten.from_file.default"),
        )
    },
    "an expression": lambda good, _: {
        GRAPH: edited(good[GRAPH], lambda x: _first(x, "expr_str").update(expr_str=CODE))
    },
    "a guard": lambda good, _: {
        GRAPH: edited(good[GRAPH], lambda x: x["guards_code"].append(f"{CODE} is None"))
    },
    "a range": lambda good, _: {
        GRAPH: edited(
            good[GRAPH],
            lambda x: x["range_constraints"].update(
                {CODE: next(iter(x["range_constraints"].values()))}
            ),
        )
    },
    "a name": lambda good, _: {
        GRAPH: edited(good[GRAPH], lambda x: _first(x, "name").update(name=f"x):\n {CODE}#"))
    },
    "a tree": lambda good, _: {
        GRAPH: edited(
            good[GRAPH],
            lambda x: _first(x, "in_spec").update(
                in_spec='[1, {"type": "collections.defaultdict", "context": "[]"}]'
            ),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_no_program_of_ours_holds(
    name: str, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "ran"
    spoilt = members | ATTACKS[name](members, canary)
    assert spoilt != members
    path = write(tmp_path / "evil.pt2", spoilt)
    with pytest.raises(ValueError, match=r"evil\.pt2: not a program of ours"):
        load_program(path)
    assert not canary.exists()


@pytest.mark.parametrize("data", [b"", b"no archive", pickle.dumps({"model": 1})])
def test_what_is_no_archive(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a program of ours"):
        load_program(path)


# --- configurations

ABSURD: list[dict[str, Any]] = [
    *({name: 10**9} for name in ("width", "semantic_width", "degradation_width", "denoiser_width")),
    *({name: 10**9} for name in ("num_steps", "prior_grid", "num_deep_tokens")),
    *({f"num_{name}_blocks": 10**9} for name in ("semantic", "degradation", "denoiser")),
    {"num_blocks": [1, 1, 1, 10**9]},
    {"ffn_expansion": 1e9},
    {"noise_seed": 2**64},
    {"semantic_width": 2048, "prior_grid": 64, "num_steps": 1000},
    # Each is allowed, and together they are 60 GB; the weights beside them are none of that.
    {"width": 2048, "num_blocks": [8, 8, 8, 8], "denoiser_width": 16384},
]


@pytest.mark.parametrize("change", ABSURD, ids=str)
def test_widths_that_nobody_has(change: dict[str, Any], tmp_path: Path) -> None:
    described = {"model": tiny().model_dump(mode="json") | change}
    (tmp_path / "config.json").write_text(json.dumps(described))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    before_mib = restart_peak()
    if before_mib is None:
        pytest.skip("the peak of memory cannot be restarted here: no /proc/self/clear_refs")
    with pytest.raises(ValueError, match=r"config\.json: not a model of ours|not this model's"):
        read_bundle(tmp_path).fuser()
    assert own_peak_mib() - before_mib < 128


def test_a_checkpoint_of_widths_that_nobody_has(tmp_path: Path) -> None:
    objective = Stage1Config(model=tiny()).model_dump(mode="json")
    objective["model"]["width"] = 10**9
    config = {"objective": objective, "optim": {}, "dataset": "d"}
    save_checkpoint(tmp_path / "c", state_of(3), step=1, config_json=json.dumps(config))
    with pytest.raises(ValueError, match=r"(?s)width.*less than or equal to 2048"):
        fuser_of_checkpoint(tmp_path / "c")
