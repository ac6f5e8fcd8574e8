"""`jobs.train --local`: the loop in this process, resumed from its own checkpoints."""

import time
from pathlib import Path

import pytest
import torch

from infra.registry import tracking
from infra.settings import Settings
from jobs.config import override, shrink_training
from jobs.recipes import TRAINING
from jobs.train.local import train_local
from jobs.train.records import watch
from jobs.train.visuals import MAP
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder
from pipelines.training import loop as training
from pipelines.training.checkpoints import read_state, read_weights
from tests.settings import tracked_settings


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

    def step_then_die(*arguments: object, **options: object) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real_step(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_step", step_then_die)
    with pytest.raises(KeyboardInterrupt):
        train_local(recipe, settings_in(works[1]), name="t")
    monkeypatch.undo()
    resumed = train_local(recipe, settings_in(works[1]), name="t")
    first, second = read_weights(whole), read_weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in resumed.parent.iterdir()) == [
        "previews",
        f"{Path(MAP).stem}-00000002.html",
        MAP,
        "step-00000002",
        "step-00000004",
    ]
    # What the second try drew is what the first would have.
    drawn = [sorted((folder.parent / "previews").iterdir()) for folder in (whole, resumed)]
    assert [path.name for path in drawn[0]] == ["step-00000002.png", "step-00000004.png"]
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]
    assert "vi blur" in (resumed.parent / MAP).read_text()


def test_a_resumed_run_shows_only_what_it_does_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that were done before took no time now: counted in, they would promise an early end."""
    client = tracking.connect(tracked_settings(tmp_path))
    run_id = tracking.open_run(client, name="t", config={}, tags={}).info.run_id
    for step in (10, 20):
        tracking.log_metrics(client, run_id, {"loss": 5.0}, step=step)
    with watch(client, run_id, 40):
        time.sleep(2)
        tracking.log_metrics(client, run_id, {"loss": 3.0}, step=40)
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["  steps 40/40  loss 3.000"]
