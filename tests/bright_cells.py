"""A detector for tests, as an ONNX file: it finds the bright cells of a picture, 4 by 4 of them."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

SIDE_PX, CELL_PX = 32, 8
Layout = Literal["places", "things", "other"]


def write_detector(path: Path, layout: Layout = "places", names: str = "{0: 'Lamp'}") -> Path:
    """Its class 0 is as sure as a cell is bright; `places` is 1×5×16, `things` 1×16×6."""
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    helper, number = onnx.helper, onnx.TensorProto
    low = np.stack(np.meshgrid(range(0, SIDE_PX, CELL_PX), range(0, SIDE_PX, CELL_PX)), -1)
    low = low.reshape(-1, 2).astype(np.float32)
    boxes = {
        "places": np.hstack([low + CELL_PX / 2, np.full_like(low, CELL_PX)]).T[None],
        "things": np.hstack([low, low + CELL_PX])[None],
        "other": np.zeros((1, 16, 8), np.float32),
    }[layout]
    shape = {"places": [1, 1, 16], "things": [1, 16, 1], "other": [1, 16, 1]}[layout]
    constants: dict[str, Any] = {
        "boxes": boxes,
        "shape": np.array(shape),
        "classes": np.zeros((1, 16, 1), np.float32),
        "channels": np.array([1]),
    }
    parts = ["boxes", "scores"] + ["classes"] * (layout == "things")
    constants = {
        name: value for name, value in constants.items() if name != "classes" or name in parts
    }
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["cells"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2
        ),
        helper.make_node("ReduceMean", ["cells", "channels"], ["grey"]),
        helper.make_node("Reshape", ["grey", "shape"], ["scores"]),
        helper.make_node("Concat", parts, ["output"], axis=1 if layout == "places" else 2),
    ]
    graph = helper.make_graph(
        nodes,
        "bright cells",
        [helper.make_tensor_value_info("images", number.FLOAT, [1, 3, SIDE_PX, SIDE_PX])],
        [helper.make_tensor_value_info("output", number.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"names": names})
    path.write_bytes(model.SerializeToString())
    return path
