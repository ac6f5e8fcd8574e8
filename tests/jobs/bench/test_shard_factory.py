"""The bench runs in small, and measures what it says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from jobs.bench.lines import Line
from jobs.bench.shard_factory import (
    PngGroups,
    bench_data,
    describe_shard,
    made_up_scene,
    pictures_of,
)
from pipelines.datasets.groups import Group
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.sources.pictures import encode_png
from pipelines.sources.scenes import SceneTable


def test_a_line_holds_on_the_right_side() -> None:
    assert Line("speed", 51, 50, True, "").holds
    assert not Line("speed", 49, 50, True, "").holds
    assert Line("bytes", 0.2, 0.25, False, "").holds
    assert not Line("bytes", 0.3, 0.25, False, "").holds


def test_a_shard_that_is_not_made_has_a_marker() -> None:
    table = SceneTable.of(map(made_up_scene, range(4)))
    [spec] = plan_shards(DatasetConfig(name="planned"), table)
    assert describe_shard(spec).name == spec.name


def test_a_group_has_sixteen_pictures() -> None:
    group = Group(
        vi="blur",
        ir="clean",
        vi_positives=("b", "c", "d"),
        ir_positives=("c", "d", "e"),
        negatives=("vi_clean", "vi_rain", "vi_haze", "ir_low_contrast", "vi_a", "ir_b"),
    )
    assert len(pictures_of("a", group)) == 16


def test_the_baseline_reads_whole_files_and_crops_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vi, ir = (
        rng.integers(0, 256, (12, 16, 3), np.uint8),
        rng.integers(0, 256, (12, 16, 1), np.uint8),
    )
    for name, image in (("vi", vi), ("ir", ir)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(image))
    paths = [tmp_path / "vi.png", tmp_path / "ir.png"]
    first, second = PngGroups([paths], crop_px=12, seed=0)[0]
    assert first.shape == second.shape == (3, 12, 12)
    lefts = [
        left
        for left in range(5)
        if np.allclose(first.numpy() * 255, vi[:, left : left + 12].transpose(2, 0, 1))
    ]
    assert len(lefts) == 1
    assert np.allclose(second.numpy()[0] * 255, ir[:, lefts[0] : lefts[0] + 12, 0])


@pytest.mark.slow
@pytest.mark.ray
def test_the_bench_in_small(ray_settings: Settings, tmp_path: Path) -> None:
    lines = bench_data(ray_settings.model_copy(update={"work": tmp_path}), smoke=True)
    assert len(lines) == 9
    assert all(math.isfinite(line.value) and line.value > 0 for line in lines)
    written = json.loads((tmp_path / "bench" / "data-smoke.json").read_text())
    assert [line["name"] for line in written["lines"]] == [line.name for line in lines]
