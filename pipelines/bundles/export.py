"""The inference bundle: a folder that is a model, with nothing else needed to run it.

config.json         the fuser's config, what its program takes and returns, and where it came from
model.safetensors   its weights
program.pt2         the exported program: `(vi, ir, *hints) -> fused` or `-> (fused, vi, ir)`
types.json          where it is known: what each degradation looks like to the model

On request its fuser is written as ONNX, wherever the user wants it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from models import read_fuser_config, system_of
from models.devices import all_sent, sent, use_device
from models.system import Fused, Hints, System, Weights
from pipelines.bundles.degradation_types import TYPES, DegradationTypes
from pipelines.store.files import write_whole
from pipelines.training.checkpoints import load_weights, read_config, read_weights, tensors_of
from pipelines.training.config import TrainingConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_WEIGHTS = "model.safetensors"
# Batch, height and width stay free in the program if they differ in the example (and are not 1).
_EXAMPLE_BATCH, _EXAMPLE_ROWS, _EXAMPLE_COLUMNS = 2, 5, 6
ONNX_TOLERANCE = 1e-4


def fuser_of_checkpoint(folder: Path) -> tuple[BaseModel, nn.Module]:
    """Config and fuser from a training checkpoint of any stage."""
    try:
        stage = TrainingConfig.model_validate(read_config(folder)).objective
    except ValidationError as error:
        raise ValueError(f"{folder}/config.json: not a training of ours ({error})") from error
    config, weights = system_of(stage).fuser_weights(stage, read_weights(folder))
    return config, _fuser_with(config, weights, folder)


def write_bundle(
    folder: Path,
    config: BaseModel,
    fuser: nn.Module,
    *,
    origin: Mapping[str, str],
    types: DegradationTypes | None = None,
) -> None:
    """Write a bundle; `origin` says where the weights come from (runs, dataset version, commit)."""
    folder.mkdir(parents=True, exist_ok=True)
    system = system_of(config)
    weights = {name: tensor.contiguous().cpu() for name, tensor in fuser.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    torch.export.save(_for_running(export_program(system, fuser)), folder / "program.pt2")
    description = {
        "model": config.model_dump(mode="json"),
        "contract": contract_of(system),
        "origin": dict(origin),
    }
    if types:
        write_whole(folder / TYPES, types.as_bytes())
    write_whole(folder / "config.json", json.dumps(description, indent=1).encode())


def contract_of(system: System) -> dict[str, Any]:
    """What the program takes and returns, as the registered model reads it: it knows no system."""
    pictures = {"vi": [-1, 3, -1, -1], "ir": [-1, 1, -1, -1]}
    inputs = {name: {"shape": shape, "dtype": "float32"} for name, shape in pictures.items()}
    for name, example in example_hints(system, 1).items():
        shape = [-1, *example.shape[1:]]
        inputs[name] = {"shape": shape, "dtype": str(example.dtype).removeprefix("torch.")}
    restored = ["fused", "vi", "ir"] if system.restores_sources else ["fused"]
    sizes: dict[str, Any] = {"multiple_px": system.multiple_px, "least_px": system.least_px}
    sizes |= {"padding": system.padding}
    channels = {"fused": 3, "vi": 3, "ir": 1}
    return sizes | {"inputs": inputs, "outputs": {name: channels[name] for name in restored}}


def example_hints(system: System, batch: int) -> dict[str, Tensor]:
    """Hints of clean pictures: operators (0, 0, 1), or task 0."""
    clean = {"operators": torch.tensor([[0.0, 0.0, 1.0]]), "prompts": torch.tensor([0])}
    return {name: clean[system.hints].repeat_interleave(batch, dim=0) for name in system.hint_names}


def export_program(system: System, fuser: nn.Module) -> torch.export.ExportedProgram:
    """Export the system's program with free batch, height and width (multiples of its own)."""
    multiple, least = system.multiple_px, -(-system.least_px // system.multiple_px)
    rows, columns = max(_EXAMPLE_ROWS, least + 1), max(_EXAMPLE_COLUMNS, least + 2)
    vi, ir = (
        torch.rand(_EXAMPLE_BATCH, channels, rows * multiple, columns * multiple)
        for channels in (3, 1)
    )
    hints = example_hints(system, _EXAMPLE_BATCH).values()
    height, width = (
        multiple * torch.export.Dim(name, min=least)
        if multiple > 1
        else torch.export.Dim(name, min=least)
        for name in ("rows", "columns")
    )
    batch = torch.export.Dim("batch", min=1)
    sizes: Any = ({0: batch, 2: height, 3: width},) * 2
    if hints:
        sizes = (*sizes, ({0: batch},) * len(hints))
    program = system.program(fuser).eval()
    with _without_cache():
        return torch.export.export(program, (vi, ir, *hints), dynamic_shapes=sizes, strict=False)


def _for_running(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without what nobody needs who runs it: source lines, and the sizes of what lies between.

    Those of its inputs and parameters stay. The others are thousands of formulas: to parse them took most
    of the time in which a program is loaded, and they were half of its file.
    """
    for node in program.graph.nodes:
        if node.op == "call_function":
            value = tree_map_only(Tensor, lambda tensor: tensor.new_empty(()), node.meta["val"])
            node.meta = {"val": value}
    return program


def _without_cache() -> Any:
    """A block in which what torch infers of tensors without numbers is not kept for the next like it.

    With free sizes there is hardly a next one: keeping took half of LURE's export.
    """
    from torch._dynamo import config  # seconds, which only those who export should wait

    return config.patch(fake_tensor_cache_enabled=False)


def checked_sizes(system: System) -> tuple[tuple[int, int, int], ...]:
    """(B, H, W) that share no shape with each other, nor with the example of the export."""
    multiple, least = system.multiple_px, -(-system.least_px // system.multiple_px)
    units = ((1, 0, 0), (2, 1, 3), (3, 7, 0))
    return tuple((b, (least + y) * multiple, (least + x) * multiple) for b, y, x in units)


def seeded_inputs(
    system: System, size: tuple[int, int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Hints]:
    """Pictures of noise in [0, 1] and the hints of clean ones, of a size (B, H, W)."""
    batch, height, width = size
    vi, ir = (torch.rand(batch, c, height, width, generator=generator) for c in (3, 1))
    return vi, ir, example_hints(system, batch)


def write_onnx(path: Path, bundle: Path, device: str = "cpu") -> float:
    """Write a bundle's fuser as ONNX with free batch, height and width; return its error.

    The error is the largest difference of onnxruntime, on the CPU, from the bundle's fuser on a device, in
    [0, 1].
    Raises ValueError when the packages of the extra `onnx` are absent or the error exceeds 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it, and its own error is less clear
    except ImportError as absent:
        raise ValueError(f"{absent.name} is not installed; pip install '.[onnx]'") from absent
    read = read_bundle(bundle)
    fuser, contract = read.fuser(), contract_of(read.system)
    # Not program.pt2: read back, the bounds of its sizes are no longer what the converter takes.
    program = export_program(read.system, fuser)
    with _without_cache():
        converted = torch.onnx.export(
            program,
            input_names=[*contract["inputs"]],
            output_names=[
                "fused" if name == "fused" else f"restored_{name}" for name in contract["outputs"]
            ],
            dynamo=True,
            verbose=False,
            optimize=False,  # onnxruntime does that when it loads; here it takes minutes
        )
    assert converted is not None
    data = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    error = _onnx_error(session, read.system, fuser, use_device(device))
    if error > ONNX_TOLERANCE:
        raise ValueError(f"{bundle}: as ONNX it is {error:.1e} off, above {ONNX_TOLERANCE:.0e}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return error


@torch.inference_mode()
def _onnx_error(
    session: InferenceSession, system: System, fuser: nn.Module, device: torch.device
) -> float:
    """Largest difference of a session from the fuser over sizes that share no shape."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    fuser.to(device)
    for size in checked_sizes(system):
        vi, ir, hints = seeded_inputs(system, size, generator)
        inputs = {"vi": vi, "ir": ir, **hints}
        fused, *_ = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected: Fused = fuser(sent(vi, device), sent(ir, device), all_sent(hints, device))
        error = (torch.from_numpy(fused) - expected.fused.cpu()).abs().max()
        largest = max(largest, float(error))
    return largest


class Bundle(BaseModel):
    """A bundle's configuration and weights by value: workers need not see the folder `source`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    model: Annotated[SerializeAsAny[BaseModel], BeforeValidator(read_fuser_config)]
    weights: bytes = Field(repr=False)
    types: DegradationTypes | None = Field(default=None, repr=False)

    @property
    def system(self) -> System:
        """The system that it is of."""
        return system_of(self.model)

    def fuser(self) -> Any:
        """Build it. Raises ValueError when the weights are another model's."""
        path = Path(self.source) / _WEIGHTS
        return _fuser_with(self.model, tensors_of(path, self.weights), path)


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle's fuser is built from. Raises ValueError when the folder is not a bundle."""
    described = read_config(folder).get("model")
    if described is None:
        raise ValueError(
            f"{folder}: its config.json describes no model; it is not one of our bundles"
        )
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path}: missing; it is not one of our bundles")
    try:
        model = read_fuser_config(described)
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{folder}/config.json: not a model of ours ({error})") from error
    return Bundle(
        source=str(folder),
        model=model,
        weights=path.read_bytes(),
        types=_read_types(folder / TYPES),
    )


def _read_types(path: Path) -> DegradationTypes | None:
    if not path.is_file():
        return None
    try:
        return DegradationTypes.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not a table of degradation types ({error})") from error


def _fuser_with(config: BaseModel, weights: Weights, source: Path) -> nn.Module:
    """Build a fuser of these weights; compare names and shapes before memory is taken for it."""
    system = system_of(config)
    with torch.device("meta"):
        claimed = system.build_fuser(config).to("meta")  # a table that was read is real, too
    load_weights(claimed, {name: tensor.to("meta") for name, tensor in weights.items()}, source)
    fuser = system.build_fuser(config)
    load_weights(fuser, weights, source)
    return fuser.eval()
