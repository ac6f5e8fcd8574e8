"""`jobs.train --local`: a training in this process, without Ray and MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path

from infra.settings import Settings
from jobs.console import print_facts, print_line, progress
from jobs.train.inputs import Planned, check_gpus, plan_training
from jobs.train.task import describe_ending, training_task
from jobs.train.visuals import MAP, write_map, write_preview
from pipelines.probes.latents import in_words
from pipelines.store.files import alone_in, whole_folder
from pipelines.training.config import TrainingConfig
from pipelines.training.loop import PREVIEW, Metrics, run_training


def train_local(
    config: TrainingConfig, settings: Settings, *, name: str, device: str = "auto"
) -> Path:
    """Train in this process on a device, by name; return the last checkpoint's folder.

    Beside the checkpoints lie the previews and, after a stage that is probed, the map of the probe.
    """
    check_gpus(config, name, here=True)
    planned = plan_training(config, settings, name=name)
    if settings.runs.startswith("s3://"):
        raise ValueError(f"--local keeps its checkpoints in a folder, not at {settings.runs}")
    folder = Path(settings.runs) / f"{name}-{planned.digest[:12]}-local"
    with alone_in(folder), progress("steps", config.optim.num_steps) as advance:

        def report(metrics: Metrics, scratch: Path | None) -> None:
            step = int(metrics["step"])
            advance(step, f"loss {metrics['loss']:.3f}")
            if PREVIEW in metrics:
                write_preview(folder, metrics[PREVIEW], step)
            if scratch:
                _keep(folder, scratch, step)
                if config.stage.is_probed and _is_shown(config, step):
                    # How the groups of degradations merge, or part, in the course of the training.
                    name = f"{Path(MAP).stem}-{step:08d}.html"
                    _write_map(folder / name, _checkpoints(folder)[-1], planned, settings)

        before = _checkpoints(folder)
        run_training(
            training_task(planned, settings),
            rank=0,
            world_size=1,
            device=device,
            resume=before[::-1],
            report=report,
        )
    checkpoint = _checkpoints(folder)[-1]
    describe_ending(checkpoint, config)
    if config.stage.is_probed:
        _write_map(folder / MAP, checkpoint, planned, settings)
    return checkpoint


def _keep(folder: Path, scratch: Path, step: int) -> None:
    """Keep a checkpoint, and of the older ones the last."""
    with whole_folder(folder / f"step-{step:08d}") as copy:
        shutil.copytree(scratch, copy, dirs_exist_ok=True)
    for old in _checkpoints(folder)[:-2]:
        shutil.rmtree(old)


def _is_shown(config: TrainingConfig, step: int) -> bool:
    every = config.preview_every
    return every is not None and step % every == 0 and step < config.optim.num_steps


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _write_map(path: Path, checkpoint: Path, planned: Planned, settings: Settings) -> None:
    try:
        found = write_map(path, checkpoint, planned.version, planned.sources.unseen, settings)
    except ModuleNotFoundError as absent:
        package = (absent.name or "").partition(".")[0]
        print_line(f"  no map of the probe: {package} is not installed")
        return
    print_facts(in_words(found))
