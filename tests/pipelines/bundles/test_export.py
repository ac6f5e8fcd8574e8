from pathlib import Path

import pytest
import torch

from pipelines.bundles.export import read_bundle, write_onnx
from tests.conftest import tiny_fuser


@pytest.mark.slow
def test_onnx_equals_the_module_at_any_batch_and_size(tiny_bundle: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    path = tmp_path / "new" / "fuser.onnx"
    assert write_onnx(path, tiny_bundle) < 1e-5
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    vi, ir = torch.rand(1, 3, 32, 48), torch.rand(1, 1, 32, 48)
    (fused,) = session.run(None, {"vi": vi.numpy(), "ir": ir.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(fused), tiny_fuser()(vi, ir).fused, atol=1e-4, rtol=0
        )


@torch.inference_mode()
def test_a_bundle_rebuilds_its_fuser(tiny_bundle: Path) -> None:
    vi, ir = torch.rand(1, 3, 33, 47), torch.rand(1, 1, 33, 47)
    assert torch.equal(read_bundle(tiny_bundle).fuser()(vi, ir).fused, tiny_fuser()(vi, ir).fused)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_bundle(tmp_path).fuser()
