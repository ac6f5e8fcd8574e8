"""The objective of a training with its first weights: seeded, or those of an earlier run."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models import read_stage_config, system_of
from models.system import Initial
from pipelines.training.checkpoints import read_config, read_weights
from pipelines.training.config import TrainingConfig

# Company of a picture in a contrastive group; the last negative is the other camera's.
NUM_POSITIVES, NUM_NEGATIVES = 3, 6
# The first one is slower.
_TIMED_STEPS = 3


def read_initial(folder: Path) -> Initial:
    """Read a checkpoint's weights and the stage that they are of. Raises ValueError."""
    try:
        config = read_stage_config(read_config(folder).get("objective"))
    except ValidationError as error:
        raise ValueError(f"{folder}/config.json: {error}") from error
    return Initial(config, read_weights(folder))


def make_objective(config: TrainingConfig, initial: Initial | None = None) -> Any:
    """Build the objective with its first weights: seeded, or `initial`; freeze what is named.

    Raises ValueError when the initial weights are missing or do not fit.
    """
    system, needs = system_of(config.objective), config.stage.needs_init
    if needs and initial is None:
        raise ValueError(
            f"{config.stage.name} starts from {needs}; set init_from=FOLDER or runs:/ID"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optim.seed)
        objective = system.build_objective(config.objective)
    if initial is not None:
        try:
            system.load_initial(objective, config.objective, initial)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"init_from={config.init_from}: {error}") from error
    _freeze(objective, config.freeze)
    return objective


def _freeze(objective: nn.Module, patterns: tuple[str, ...]) -> None:
    names = dict(objective.named_parameters())
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            known = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(f"freeze {pattern!r} names no parameter; they begin with: {known}")
        for name in found:
            names[name].requires_grad_(False)


def stand_in_batch(
    config: TrainingConfig, objective: Any, *, batch_size: int, device: str
) -> dict[str, Tensor]:
    """A batch of zeros with every field that an objective reads: only shapes count."""
    on_cpu = getattr(objective, "ON_CPU", ())
    side = config.optim.crop_px
    return {
        name: _stand_in(name, batch_size, side, "cpu" if name in on_cpu else device)
        for name in objective.FIELDS
    }


def _stand_in(name: str, size: int, side: int, device: str) -> Tensor:
    if name in ("seed", "task", "camera", "vi_task", "ir_task"):
        return torch.zeros(size, dtype=torch.int64, device=device)
    if name in ("vi_op", "ir_op", "op"):
        return torch.zeros(size, 3, device=device)
    channels = 1 if name.startswith("ir") else 3
    group = {"vi_pos": (NUM_POSITIVES,), "ir_pos": (NUM_POSITIVES,), "neg": (NUM_NEGATIVES,)}
    return torch.zeros(size, *group.get(name, ()), channels, side, side, device=device)


def seconds_a_step(config: TrainingConfig) -> float:
    """Seconds that an objective's step takes in this process, forward and backward, on the CPU."""
    objective = system_of(config.objective).build_objective(config.objective)
    size = config.optim.batch_size
    batch = stand_in_batch(config, objective, batch_size=size, device="cpu")
    seconds = []
    for step in range(_TIMED_STEPS):
        started = time.perf_counter()
        objective(batch, step)["loss"].backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
