"""Every system on a GPU: the pictures and gradients that the CPU makes, and what bf16 costs."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from models import SYSTEMS
from models.devices import all_sent, use_device
from models.system import Stage, System
from pipelines.bundles.export import checked_sizes, seeded_inputs
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step
from tests.models.test_devices import BATCHES

by_name = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
by_stage = pytest.mark.parametrize(
    ("case", "system", "stage"),
    [
        (f"{system.name}/{stage.name}", system, stage)
        for system in SYSTEMS
        for stage in system.stages
    ],
)


@by_name
@torch.inference_mode()
def test_a_fuser_makes_the_picture_of_the_cpu(system: System) -> None:
    device = use_device("cuda")
    torch.manual_seed(0)
    fuser = system.build_fuser(system.fuser_config()).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = [seeded_inputs(system, size, generator) for size in checked_sizes(system)]
    expected = [fuser(vi, ir, hints).fused for vi, ir, hints in inputs]
    fuser.to(device)
    for (vi, ir, hints), picture in zip(inputs, expected, strict=True):
        fused = fuser(vi.to(device), ir.to(device), all_sent(hints, device)).fused
        torch.testing.assert_close(fused.cpu(), picture, atol=1e-4, rtol=0)


def _step(
    case: str,
    system: System,
    stage: Stage,
    *,
    device: str,
    precision: Literal["fp32", "bf16"],
    waiting: str = "default",
) -> tuple[dict[str, Tensor], Any]:
    """Two steps from the same weights on the same batch; the second one's terms, and the objective."""
    torch.manual_seed(0)
    objective: Any = system.build_objective(system.shrink(stage.config())).to(use_device(device))
    stays = getattr(objective, "ON_CPU", ())
    batch = {
        name: value if name in stays else value.to(device)
        for name, value in BATCHES[case]().items()
    }
    optim = OptimConfig(num_steps=2, precision=precision, clip_norm=1.0, ema_decay=0.9)
    state = start_state(objective, optim)
    train_step(objective, state, [batch], optim, step=0)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode(waiting)
    try:
        terms = train_step(objective, state, [batch], optim, step=1)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {name: term.cpu() for name, term in terms.items()}, objective


@by_stage
def test_a_step_in_float32_is_that_of_the_cpu(case: str, system: System, stage: Stage) -> None:
    if system.name == "lure":
        pytest.skip("LURE draws prompts and noise on its device, and a GPU draws others")
    here, _ = _step(case, system, stage, device="cpu", precision="fp32")
    there, objective = _step(case, system, stage, device="cuda", precision="fp32")
    for name, term in here.items():
        torch.testing.assert_close(there[name], term, atol=1e-4, rtol=1e-3)
    assert {p.device.type for p in objective.parameters()} == {"cuda"}


@by_stage
def test_a_step_in_bf16_is_near_float32(case: str, system: System, stage: Stage) -> None:
    precise, _ = _step(case, system, stage, device="cuda", precision="fp32")
    rounded, objective = _step(case, system, stage, device="cuda", precision="bf16")
    assert float(rounded["loss"]) == pytest.approx(float(precise["loss"]), rel=0.03)
    assert {p.dtype for p in objective.parameters()} == {torch.float32}


@by_stage
def test_a_step_does_not_wait_for_the_gpu(case: str, system: System, stage: Stage) -> None:
    """torch raises where this process would wait for a number of the device."""
    _step(case, system, stage, device="cuda", precision="bf16", waiting="error")
