"""The registered model, as MLflow runs it: models-from-code, logged beside the bundle.

It stands alone on purpose: an environment that loads the model has torch, numpy and mlflow, and not
this repository. The network is the bundle's exported program; what it takes and returns, in which
sizes, says the contract in the bundle's config.json.
"""

import json
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from torch.export.passes import move_to_device_pass

# What rounding may add to a value of 1, or take from one of 0.
SLACK = 1e-3


class ServedFuser(PythonModel):
    """`predict({"vi": B×3×H×W, "ir": B×1×H×W, …})`, float32 [0, 1], gives the fused B×3×H×W.

    `load_model(uri, model_config={"device": "cpu"})` keeps it off a GPU, which "auto" takes where there is
    one. Further inputs are the model's hints, one row a pair. A model that restores its sources gives a
    dictionary of "fused", "vi" and "ir".
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the exported program and its contract, onto the device of the model's configuration."""
        bundle = Path(context.artifacts["bundle"])
        self._contract = json.loads((bundle / "config.json").read_text())["contract"]
        self._device = _device(context.model_config["device"])
        program = torch.export.load(bundle / "program.pt2")
        if self._device != "cpu":
            # The CPU that it was traced on stands in it wherever a tensor is made.
            program = move_to_device_pass(program, self._device)
        self._program = program.module()

    # Without annotations: MLflow would take them for a signature, which cannot say "any size".
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Fuse a batch of any size that the contract allows, the same for both pictures."""
        arrays = {
            name: np.asarray(model_input[name], spec["dtype"])
            for name, spec in self._contract["inputs"].items()
        }
        _check(arrays, self._contract["least_px"])
        height, width = arrays["vi"].shape[2:]
        with torch.inference_mode():
            inputs = (torch.from_numpy(array).to(self._device) for array in self._padded(arrays))
            found = self._program(*inputs)
        found = found if isinstance(found, tuple) else (found,)
        outputs = {
            name: picture[:, :, :height, :width].cpu().numpy()
            for name, picture in zip(self._contract["outputs"], found, strict=True)
        }
        return outputs if len(outputs) > 1 else outputs["fused"]

    def _padded(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The program's inputs in order, pictures extended to the multiple of the contract."""
        multiple = self._contract["multiple_px"]
        height, width = arrays["vi"].shape[2:]
        pad = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
        return [
            np.pad(array, pad, mode=self._contract["padding"]) if name in ("vi", "ir") else array
            for name, array in arrays.items()
        ]


def _device(name: str) -> str:
    """The device that "auto", "cpu" or "cuda" means here; float32 stays float32 on a GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return name


def _check(arrays: dict[str, np.ndarray], least_px: int) -> None:
    """Refuse what the signature cannot: MLflow's own error, which a server answers with as it is."""
    vi, ir = arrays["vi"], arrays["ir"]
    if vi.shape[2:] != ir.shape[2:] or len(vi) != len(ir):
        sizes = f"vi is {vi.shape} but ir is {ir.shape}"
        raise MlflowException.invalid_parameter_value(f"{sizes}; batch and size must be equal")
    if not len(vi):
        raise MlflowException.invalid_parameter_value("the batch is empty; give one pair at least")
    height, width = vi.shape[2:]
    if min(height, width) < least_px:
        raise MlflowException.invalid_parameter_value(
            f"pictures of {width}x{height} px are too small; {least_px} a side is the least"
        )
    for name, array in arrays.items():
        if len(array) != len(vi):
            raise MlflowException.invalid_parameter_value(
                f"{name} has {len(array)} rows for {len(vi)} pairs; give one a pair"
            )
    for name, image in (("vi", vi), ("ir", ir)):
        # Turned this way round, because a value that is not a number must not pass.
        if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):
            raise MlflowException.invalid_parameter_value(
                f"{name} lies in [{image.min():.3g}, {image.max():.3g}]; give [0, 1], that is 8-bit "
                "values divided by 255"
            )


mlflow.models.set_model(ServedFuser())
