"""The registered model, as MLflow runs it: models-from-code, logged beside the bundle.

It stands alone on purpose: an environment that loads the model has torch, numpy and mlflow, and not
this repository. The network is the bundle's exported program.
"""

from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

MULTIPLE_PX = 8


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
        if vi.shape[2:] != ir.shape[2:] or len(vi) != len(ir):
            raise ValueError(f"vi is {vi.shape} but ir is {ir.shape}; batch and size must be equal")
        height, width = vi.shape[2:]
        if min(height, width) < 2 * MULTIPLE_PX:
            raise ValueError(f"pictures of {width}x{height} px are too small; 16 is the least")
        bottom, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
        pad = ((0, 0), (0, 0), (0, bottom), (0, right))
        padded = [torch.from_numpy(np.pad(image, pad, mode="reflect")) for image in (vi, ir)]
        with torch.inference_mode():
            fused = self._program(*padded)
        return fused[:, :, :height, :width].numpy()


mlflow.models.set_model(Fuser())
