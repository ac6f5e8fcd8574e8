"""The objective of a training with its first weights: seeded, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import build_objective
from models.dspfusion.config import DSPFusionConfig, Stage1Config
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from pipelines.training.checkpoints import read_config, read_weights
from pipelines.training.config import TrainingConfig


def read_stage1(config: TrainingConfig) -> dict[str, Tensor] | None:
    """Read the weights that are gone on from; a Stage I run can do without.

    A Stage II run starts from a Stage I checkpoint, or goes on from one of its own stage. Raises
    ValueError when they are missing or do not fit.
    """
    if config.stage1 is None:
        if isinstance(config.objective, Stage1Config):
            return None
        raise ValueError("stage2 starts from a Stage I checkpoint; set stage1=FOLDER or runs:/ID")
    there: Any = read_config(Path(config.stage1))["objective"]
    if there["stage"] not in ("stage1", config.objective.stage):
        raise ValueError(f"{config.stage1}: is a {there['stage']} checkpoint, not stage1")
    own = _STAGE2_ALONE if there["stage"] == "stage1" else _AT_INFERENCE
    model = DSPFusionConfig.model_validate(there["model"])
    check_same_networks(model, config.objective.model, except_for=own)
    return read_weights(Path(config.stage1))


def make_objective(
    config: TrainingConfig, stage1: dict[str, Tensor] | None = None
) -> Stage1 | Stage2:
    """Build the objective with its first weights: seeded, or those of the checkpoint.

    Those are read from the folder that `config` names, unless they are handed in.
    """
    stage1 = stage1 or read_stage1(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optim.seed)
        objective = build_objective(config.objective)
    if stage1 is not None:
        if isinstance(objective, Stage2) and objective.state_dict().keys() != stage1.keys():
            objective.load_stage1(stage1)
        else:
            objective.load_state_dict(stage1)
    return objective


def check_same_networks(
    checkpoint: DSPFusionConfig, config: DSPFusionConfig, *, except_for: Container[str]
) -> None:
    """Raise ValueError naming the settings in which the networks differ, `except_for` some."""
    there, here = dict(checkpoint), dict(config)
    differing = sorted(key for key in here if key not in except_for and there[key] != here[key])
    if differing:
        raise ValueError(
            "the checkpoint was trained with other networks: "
            + ", ".join(f"{key}={there[key]!r} there, {here[key]!r} here" for key in differing)
        )


_AT_INFERENCE = frozenset({"noise_seed", "stretch"})
# The denoiser and its chain.
_STAGE2_ALONE = _AT_INFERENCE | {
    "prior",
    "denoiser_predicts",
    "denoiser_width",
    "num_denoiser_blocks",
    "num_steps",
    "beta_start",
    "beta_end",
}
