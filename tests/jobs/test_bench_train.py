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
    # Two steps a side: a neighbour on the machine can make either of them many times as slow.
    assert all(0.01 < line.value < 100 for line in (lines[0], lines[2]))
    assert 0 < lines[1].value < 100
    written = json.loads((tmp_path / "bench" / "train-smoke.json").read_text())
    assert [line["name"] for line in written["lines"]] == [line.name for line in lines]
