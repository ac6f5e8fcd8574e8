"""The plain reference against the golden vectors: what we measure ourselves by is right itself."""

import numpy as np
import pytest
import torch

from models.dspfusion.parity.fill import image, noise
from models.golden import compare_tensor, compare_values
from tests.models.dspfusion.golden import filled_reference, folder, needs_golden
from tests.models.dspfusion.second_folder import losses_of, step_batch

pytestmark = needs_golden


@pytest.mark.parametrize("name", ["case_a_64x64", "case_b_64x96_b2"])
def test_fused_image(name: str) -> None:
    constants, case, arrays = (
        folder().index.constants,
        folder().index.cases[name],
        folder().load(name),
    )
    shape = (case.B, 3, case.H, case.W)
    given = image("ir", shape, constants), image("vi", shape, constants)
    with torch.no_grad():
        fused = filled_reference(constants)(*given, noise("noise", (case.B, 16, 256), constants))
    assert compare_tensor(name, "fused", fused, arrays["out_fusion"], 5e-5).passed


@pytest.mark.parametrize("stage", [1, 2])
def test_training_step(stage: int) -> None:
    constants, arrays = folder().index.constants, folder().load(f"stage{stage}_step")
    model = filled_reference(constants)
    losses = losses_of(model, step_batch(constants, 2, 64), stage, constants)
    for key in (key for key in arrays if key.startswith("loss/")):
        ours = float(losses[key.removeprefix("loss/")].detach())
        assert compare_values("step", key, ours, arrays[key], 1e-4).passed, key
    losses["loss"].backward()
    norms = {
        name.replace(".", "/", 1): float(p.grad.norm())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    assert norms.keys() == set(arrays["grad_norm_names"])
    found = [norms[str(name)] for name in arrays["grad_norm_names"]]
    floor = 1e-3 * float(arrays["total_grad_norm_preclip"])
    np.testing.assert_allclose(found, arrays["grad_norm_preclip"], rtol=1e-3, atol=1e-3 * floor)
