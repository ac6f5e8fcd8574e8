"""The inference bundle: a folder that is a model, with nothing else needed to run it.

config.json         networks, stage, and where it came from; rebuilds the fuser
model.safetensors   its weights
program.pt2         the exported program: `(vi, ir) -> fused`, sizes that are multiples of 8

On request its fuser is written as ONNX, wherever the user wants it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from models import build_fuser
from models.dspfusion.config import SIZE_MULTIPLE_PX, DSPFusionConfig, fuser_config
from models.dspfusion.fuser import DSPFusionFuser, PaddedFuser
from pipelines.store.files import write_whole
from pipelines.training.checkpoints import load_weights, read_config, read_weights, tensors_of
from pipelines.training.config import TrainingConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_WEIGHTS = "model.safetensors"

# Batch, height and width stay free in the program if they differ in the example (and are not 1).
_EXAMPLE_BATCH, _EXAMPLE_HEIGHT, _EXAMPLE_WIDTH = 2, 5 * SIZE_MULTIPLE_PX, 6 * SIZE_MULTIPLE_PX

# 16 is the least; 24 and 40 are no multiples of 16, so the bins of the priors overlap.
_CHECKED_SIZES = ((1, 16, 16), (2, 24, 40), (3, 72, 16))
ONNX_TOLERANCE = 1e-4


def fuser_of_checkpoint(folder: Path) -> tuple[DSPFusionConfig, DSPFusionFuser]:
    """Build the fuser that a training checkpoint of either stage makes."""
    config = fuser_config(TrainingConfig.model_validate(read_config(folder)).objective)
    return config, _fuser_with(config, read_weights(folder), folder)


def write_bundle(
    folder: Path, config: DSPFusionConfig, fuser: DSPFusionFuser, *, origin: Mapping[str, str]
) -> None:
    """Write a bundle; `origin` says where the weights come from (runs, dataset version, commit)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in fuser.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    torch.export.save(export_program(fuser), folder / "program.pt2")
    description = {"model": config.model_dump(mode="json"), "origin": dict(origin)}
    write_whole(folder / "config.json", json.dumps(description, indent=1).encode())


def export_program(fuser: DSPFusionFuser) -> torch.export.ExportedProgram:
    """Export `(vi B×3×H×W, ir B×1×H×W) -> fused` with free B, H, W (H, W multiples of 8)."""
    vi = torch.rand(_EXAMPLE_BATCH, 3, _EXAMPLE_HEIGHT, _EXAMPLE_WIDTH)
    ir = torch.rand(_EXAMPLE_BATCH, 1, _EXAMPLE_HEIGHT, _EXAMPLE_WIDTH)
    height = SIZE_MULTIPLE_PX * torch.export.Dim("rows", min=2)
    width = SIZE_MULTIPLE_PX * torch.export.Dim("columns", min=2)
    shape = {0: torch.export.Dim("batch", min=1), 2: height, 3: width}
    return torch.export.export(
        PaddedFuser(fuser).eval(), (vi, ir), dynamic_shapes=(shape, shape), strict=False
    )


def write_onnx(path: Path, bundle: Path) -> float:
    """Write a bundle's fuser as ONNX with free batch, height and width; return its error.

    The error is the largest difference of onnxruntime on the CPU from the bundle's fuser, in [0, 1].
    Raises ValueError when the packages of the extra `onnx` are absent or the error exceeds 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it and would say so less clearly
    except ImportError as absent:
        raise ValueError(f"{absent.name} is not installed; pip install '.[onnx]'") from absent
    fuser = load_bundle(bundle)
    # Not program.pt2: read back, the bounds of its sizes are no longer what the converter takes.
    program = export_program(fuser)
    converted = torch.onnx.export(
        program,
        input_names=["vi", "ir"],
        output_names=["fused"],
        dynamo=True,
        verbose=False,
        optimize=False,  # onnxruntime does that when it loads; here it takes minutes
    )
    assert converted is not None
    data = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    error = _onnx_error(session, fuser)
    if error > ONNX_TOLERANCE:
        raise ValueError(f"{bundle}: as ONNX it is {error:.1e} off, above {ONNX_TOLERANCE:.0e}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return error


@torch.inference_mode()
def _onnx_error(session: InferenceSession, fuser: DSPFusionFuser) -> float:
    """Largest difference of a session from the fuser over sizes that share no shape."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, height, width in _CHECKED_SIZES:
        vi, ir = (torch.rand(batch, c, height, width, generator=generator) for c in (3, 1))
        (fused,) = session.run(None, {"vi": vi.numpy(), "ir": ir.numpy()})
        largest = max(largest, float((torch.from_numpy(fused) - fuser(vi, ir)).abs().max()))
    return largest


class Bundle(BaseModel):
    """A bundle's configuration and weights by value: workers need not see the folder `source`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    model: DSPFusionConfig
    weights: bytes = Field(repr=False)

    def fuser(self) -> DSPFusionFuser:
        """Build it. Raises ValueError when the weights are another model's."""
        path = Path(self.source) / _WEIGHTS
        return _fuser_with(self.model, tensors_of(path, self.weights), path)


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle's fuser is built from. Raises ValueError when it is none of ours."""
    described = read_config(folder).get("model")
    if described is None:
        raise ValueError(
            f"{folder}: its config.json describes no model; it is not one of our bundles"
        )
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path}: missing; it is not one of our bundles")
    try:
        model = DSPFusionConfig.model_validate(described)
    except ValidationError as error:
        raise ValueError(f"{folder}/config.json: not a model of ours ({error})") from error
    return Bundle(source=str(folder), model=model, weights=path.read_bytes())


def load_bundle(folder: Path) -> DSPFusionFuser:
    """Rebuild a bundle's fuser from its config.json and weights."""
    return read_bundle(folder).fuser()


def _fuser_with(
    config: DSPFusionConfig, weights: Mapping[str, Tensor], source: Path
) -> DSPFusionFuser:
    """Build a fuser of these weights. What the configuration claims is compared before it is built."""
    with torch.device("meta"):
        claimed = build_fuser(config)
    load_weights(claimed, {name: tensor.to("meta") for name, tensor in weights.items()}, source)
    fuser = build_fuser(config)
    load_weights(fuser, weights, source)
    return fuser.eval()
