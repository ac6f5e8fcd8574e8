"""The objective of a training with its first weights: seeded, or those of an earlier run."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from models import read_stage_config, system_of
from models.system import Initial
from pipelines.training.checkpoints import read_config, read_weights
from pipelines.training.config import TrainingConfig


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
