"""The registered model, as MLflow runs it: models-from-code, logged beside the bundle.

It stands alone on purpose: an environment that loads the model has torch, numpy and mlflow, and not
this repository. The network is the bundle's exported program.
"""

from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

MULTIPLE_PX = 8
# What rounding may add to a value of 1, or take from one of 0.
SLACK = 1e-3


class Fuser(PythonModel):
    """`predict({"vi": B×3×H×W, "ir": B×1×H×W})`, float32 [0, 1], gives the fused B×3×H×W."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the exported program."""
        path = Path(context.artifacts["bundle"]) / "program.pt2"
        self._program = torch.export.load(path).module()

    # Without annotations: MLflow would take them for a signature, which cannot say "any size".
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Fuse a batch; any height and width of at least 16 px, the same for both."""
        vi, ir = (np.asarray(model_input[name], np.float32) for name in ("vi", "ir"))
        _check(vi, ir)
        height, width = vi.shape[2:]
        bottom, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
        pad = ((0, 0), (0, 0), (0, bottom), (0, right))
        padded = [torch.from_numpy(np.pad(image, pad, mode="reflect")) for image in (vi, ir)]
        with torch.inference_mode():
            fused = self._program(*padded)
        return fused[:, :, :height, :width].numpy()


def _check(vi: np.ndarray, ir: np.ndarray) -> None:
    """Refuse what the signature cannot: MLflow's own error, which a server answers with as it is."""
    if vi.shape[2:] != ir.shape[2:] or len(vi) != len(ir):
        sizes = f"vi is {vi.shape} but ir is {ir.shape}"
        raise MlflowException.invalid_parameter_value(f"{sizes}; batch and size must be equal")
    if not len(vi):
        raise MlflowException.invalid_parameter_value("the batch is empty; give one pair at least")
    height, width = vi.shape[2:]
    if min(height, width) < 2 * MULTIPLE_PX:
        raise MlflowException.invalid_parameter_value(
            f"pictures of {width}x{height} px are too small; {2 * MULTIPLE_PX} a side is the least"
        )
    for name, image in (("vi", vi), ("ir", ir)):
        # Turned this way round, because a value that is not a number must not pass.
        if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):
            raise MlflowException.invalid_parameter_value(
                f"{name} lies in [{image.min():.3g}, {image.max():.3g}]; give [0, 1], that is 8-bit "
                "values divided by 255"
            )


mlflow.models.set_model(Fuser())
