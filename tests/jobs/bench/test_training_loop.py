"""The bench runs in small, and measures what it says."""

import json
from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.bench.training_loop import bare_seconds, bench_train
from models.dspfusion.config import Stage1Config, tiny
from models.dspfusion.stage1 import Stage1
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state


@pytest.mark.slow
def test_every_line_is_measured(tmp_path: Path) -> None:
    settings = Settings(work=tmp_path, tracking_uri="unused", artifact_root=None, ray_address=None)
    lines = bench_train(settings, smoke=True)
    assert [line.target for line in lines] == [0.95, 0.01, 1.6]
    # Two steps a side: a neighbour on the machine can make either of them many times as slow.
    assert all(0.01 < line.value < 100 for line in (lines[0], lines[2]))
    assert 0 < lines[1].value < 100
    written = json.loads((tmp_path / "bench" / "train-smoke.json").read_text())
    assert [line["name"] for line in written["lines"]] == [line.name for line in lines]


def test_bare_steps_have_the_rates_of_the_loop(
    version_root: tuple[DatasetVersion, LocalFolder],
) -> None:
    """The degradation encoder of the small recipes learns at a rate of its own."""
    version, root = version_root
    optim = OptimConfig(num_steps=4, batch_size=1, crop_px=32, lr=1e-3, log_every=2)
    objective = Stage1(Stage1Config(model=tiny(), degradation_rate=0.25))
    bare = start_state(objective, optim)
    batching = Batching(Stage1.FIELDS, batch_size=1, crop_px=32, seed=optim.seed)
    batches = ShardBatches(version, root, batching)
    seconds = bare_seconds(bare, batches, optim, last_step=2)
    assert seconds > 0
    assert [group["lr"] for group in bare.optimizer.param_groups] == [1e-3, 0.25e-3]
