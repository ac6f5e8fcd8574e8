"""The bench runs in small, and measures what it says."""

import json
from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.bench_train import bench_train

pytestmark = pytest.mark.slow


def test_every_line_is_measured(tmp_path: Path) -> None:
    settings = Settings(work=tmp_path, tracking_uri="unused", artifact_root=None, ray_address=None)
    lines = bench_train(settings, smoke=True)
    assert [line.target for line in lines] == [0.95, 0.01, 1.6]
    # The loop does what the bare steps do and more; nothing makes it twice as fast.
    assert 0 < lines[0].value < 2
    assert 0 < lines[1].value < 1
    assert lines[2].value > 0
    written = json.loads((tmp_path / "bench" / "train-smoke.json").read_text())
    assert [line["name"] for line in written["lines"]] == [line.name for line in lines]
