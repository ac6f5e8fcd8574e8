"""What travels to the workers of a training: its configuration, first weights, and pairs to look at."""

from __future__ import annotations

from pathlib import Path

from infra.settings import Settings
from jobs.console import print_line
from jobs.locations import source_reader
from jobs.train.inputs import Planned
from jobs.train.visuals import preview_pairs
from pipelines.training.checkpoints import read_state
from pipelines.training.config import TrainingConfig
from pipelines.training.loop import TrainingTask
from pipelines.training.previews import PreviewPair, pairs_of_scenes


def training_task(planned: Planned, settings: Settings) -> TrainingTask:
    """Everything goes by value: no worker needs to see the folders that it lies in here.

    Without validation, and with a line that says so, where it decides nothing and its scenes cannot be
    read. Raises ValueError where it decides which weights are the model.
    """
    config = planned.config
    pairs = preview_pairs(planned, settings) if config.preview_every else []
    unseen = _validation_pairs(planned, settings)
    if not unseen:
        config = config.model_copy(update={"validation": None})
    return TrainingTask(config, planned.datasets, planned.initial, pairs, unseen)


def describe_ending(checkpoint: Path, config: TrainingConfig) -> dict[str, str]:
    """Print how a training ended and what validation found; return the steps that count, as tags."""
    state = read_state(checkpoint)
    if state.step < config.optim.num_steps:
        print_line(f"  stopped after step {state.step}: validation was no better for too long")
    if config.validation is None or state.best is None:
        return {}
    best, registers = state.best, config.validation.registers
    print_line(
        f"  best validation: {config.validation.best_by} {best.value:.4f} at step {best.step}; "
        f"the {registers} weights are the model"
    )
    model_step = best.step if registers == "best" else state.step
    return {"best_step": str(best.step), "model_step": str(model_step)}


def _validation_pairs(planned: Planned, settings: Settings) -> list[PreviewPair]:
    validation, unseen = planned.config.validation, planned.sources.unseen
    if validation is None:
        return []
    if unseen is None:  # `plan_training` refuses it where validation decides
        where = settings.work / "scenes"
        print_line(f"  no validation: no index in {where} has unseen scenes of this dataset;")
        print_line("  jobs.scan --hold-out SHARE makes a split of them")
        return []
    shard, count = planned.version.config.shard, validation.num_scenes
    try:
        return pairs_of_scenes(unseen, shard, count=count, read=source_reader(settings))
    except (ValueError, OSError) as error:
        if validation.decides:
            raise
        print_line(f"  no validation: {error}")
        return []
