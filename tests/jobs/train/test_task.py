"""What a training gets to validate on, and what becomes of it where there is nothing."""

from pathlib import Path

import pytest

from jobs.config import override, shrink_training
from jobs.recipes import TRAINING
from jobs.train.inputs import plan_training
from jobs.train.local import train_local
from jobs.train.task import training_task
from pipelines.datasets.plan import DatasetConfig
from pipelines.sources.index import write_index
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import read_state
from tests.conftest import make_version
from tests.settings import embedded_settings


def test_validation_sees_unseen_scenes_or_is_left_out_or_refused(
    scene_folder: Path,
    config: DatasetConfig,
    scenes: list[Scene],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = embedded_settings(tmp_path / "work")
    named = config.model_copy(update={"name": "rendered-small"})
    version = make_version(LocalFolder(Path(settings.datasets)), named, scenes)
    smoke = shrink_training(TRAINING["dspfusion_stage1_small"]())
    recipe = override(smoke, [f"dataset={version.name}"])
    best = override(recipe, ["validation.registers=best"])

    blind = plan_training(recipe, settings, name="t")
    task = training_task(blind, settings)
    assert (task.config.validation, list(task.unseen)) == (None, [])
    assert "no validation: no index in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no index in the work folder has unseen scenes"):
        plan_training(best, settings, name="t")

    write_index(
        scan(scene_folder, dataset="rendered"), settings.work / "scenes" / "rendered.parquet"
    )
    planned = plan_training(recipe, settings, name="t")
    assert planned.digest == blind.digest
    labels = [pair.label for pair in training_task(planned, settings).unseen]
    assert [label.partition(":")[0] for label in labels] == [
        "rendered-val-0000",
        "rendered-val-0001",
    ]
    assert plan_training(best, settings, name="t").digest != planned.digest

    checkpoint = train_local(best, settings, name="t")
    state = read_state(checkpoint)
    assert state.best is not None
    assert state.model == "best.safetensors"
    said = capsys.readouterr().out
    assert f"at step {state.best.step}; the best weights are the model" in said
