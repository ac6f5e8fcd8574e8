"""`jobs.train --local`: the loop in this process, resumed from its own checkpoints."""

from pathlib import Path

import pytest
import torch

from infra.settings import Settings
from jobs.config import override, shrink_training
from jobs.recipes import TRAINING
from jobs.train import train_local
from pipelines import training
from pipelines.checkpoints import read_state, read_weights
from pipelines.dataset import DatasetVersion
from pipelines.folders import LocalFolder


def settings_in(work: Path) -> Settings:
    return Settings(work=work, tracking_uri="unused", artifact_root=None, ray_address=None)


def test_local_training_resumes_to_the_same_weights(
    version_root: tuple[DatasetVersion, LocalFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, root = version_root
    recipe = shrink_training(TRAINING["dspfusion_stage1_small"]())
    recipe = override(recipe, [f"dataset={version.name}"])
    works = [tmp_path / name for name in ("whole", "cut")]
    for work in works:
        work.mkdir()
        (work / "datasets").symlink_to(root.path)
    whole = train_local(recipe, settings_in(works[0]), name="t")
    assert read_state(whole).step == 4

    real_step = training.train_step
    calls = 0

    def step_then_die(*arguments: object) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_step", step_then_die)
    with pytest.raises(KeyboardInterrupt):
        train_local(recipe, settings_in(works[1]), name="t")
    monkeypatch.undo()
    resumed = train_local(recipe, settings_in(works[1]), name="t")
    first, second = read_weights(whole), read_weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in resumed.parent.iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
