"""How often a training is compiled, minutes each time on a GPU: what changes each step must not count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tests.models.drfusion.samples as drfusion
import tests.models.lure.samples as lure
from models import find_system
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step

Batch = dict[str, Tensor]


def _of_cameras(*cameras: int) -> Batch:
    return lure.singles(4, 16) | {"camera": torch.tensor(cameras)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "seen", "others"),
    [
        # After the late crop any size is taken.
        ("drfusion", [drfusion.batch(2, 16), drfusion.batch(2, 32)], [drfusion.batch(2, 24)]),
        # A batch has another share of each camera every time, or none of one.
        (
            "lure",
            [_of_cameras(0, 0, 1, 1), _of_cameras(0, 1, 1, 1)],
            [_of_cameras(0, 0, 0, 1), _of_cameras(1, 1, 1, 1), _of_cameras(0, 0, 0, 0)],
        ),
    ],
)
def test_what_changes_is_compiled_once(system: str, seen: list[Batch], others: list[Batch]) -> None:
    # Seconds, which every process of the tests would take.
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    this = find_system(system)
    objective = this.build_objective(this.shrink(this.stage("stage1").config()))
    counter, optim = CompileCounter(), OptimConfig(num_steps=9)
    objective.compile(backend=counter)
    state = start_state(objective, optim)
    for step, batch in enumerate(seen):
        train_step(objective, state, [batch], optim, step=step)
    compiled = counter.frame_count
    for step, batch in enumerate(others, start=len(seen)):
        train_step(objective, state, [batch], optim, step=step)
    assert counter.frame_count == compiled > 0
