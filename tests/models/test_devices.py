"""No tensor meets one of a hard-coded device, and no step waits for the device to tell it a number.

Shown on the device `meta`, which computes nothing: it mixes with no other and has no numbers to tell.
(`FakeTensorMode` has a device "cuda", but in a torch for CPUs neither its gradients nor its copies.)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tests.models.drfusion.samples as drfusion
import tests.models.lure.samples as lure
from models import SYSTEMS
from models.devices import all_sent
from models.system import Stage, System
from pipelines.bundles.export import example_hints
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step
from tests.models.samples import training_batch

BATCHES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "dspfusion/stage1": lambda: training_batch(2, 32),
    "dspfusion/stage2": lambda: training_batch(2, 32),
    "dspfusion/distilled": lambda: training_batch(2, 32),
    "drfusion/stage1": lambda: drfusion.batch(2, 32),
    "lure/stage1": lambda: lure.singles(4, 32),
    "lure/stage2": lambda: lure.pairs(2, 32),
}
by_name = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)


@by_name
def test_a_fuser_stays_on_its_device(system: System) -> None:
    fuser = system.build_fuser(system.tiny()).eval().to("meta")
    vi, ir = (torch.rand(2, channels, 36, 43, device="meta") for channels in (3, 1))
    with torch.inference_mode():
        fused = fuser(vi, ir, all_sent(example_hints(system, 2), "meta")).fused
    assert (fused.shape, fused.device.type) == ((2, 3, 36, 43), "meta")


@pytest.mark.parametrize(
    ("system", "stage"),
    [
        pytest.param(system, stage, id=f"{system.name}/{stage.name}")
        for system in SYSTEMS
        for stage in system.stages
    ],
)
def test_a_training_step_stays_on_its_device(
    request: pytest.FixtureRequest, system: System, stage: Stage
) -> None:
    case = request.node.callspec.id
    config = system.shrink(stage.config())
    objective = system.build_objective(config).to("meta")
    batch = BATCHES[case]()
    stays = getattr(objective, "ON_CPU", ())
    on_meta = {name: value if name in stays else value.to("meta") for name, value in batch.items()}
    optim = OptimConfig(num_steps=1, ema_decay=0.9)
    terms = train_step(objective, start_state(objective, optim), [on_meta], optim, step=0)
    assert {term.device.type for term in terms.values() if isinstance(term, Tensor)} == {"meta"}
