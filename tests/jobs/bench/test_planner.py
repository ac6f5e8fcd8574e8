"""The planner's bench runs in small: both parts, on the code that they measure."""

import json
from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.bench.planner import bench_plan, plan_and_publish, simulate
from pipelines.datasets.plan import DatasetConfig


def test_a_simulation_plans_and_publishes_every_scene() -> None:
    found = plan_and_publish(5000)
    assert found.num_scenes == 5000
    assert 5000 / DatasetConfig(name="planned").scenes_per_shard <= found.num_shards < 250
    assert 0 < found.plan_cpu_s < 60
    # A line of the manifest for each shard.
    assert found.num_shards * 150 < found.manifest_mib * 2**20 < found.num_shards * 400 + 10_000
    assert found.peak_mib > 50


@pytest.mark.slow
def test_a_hundred_thousand_scenes_take_a_driver_little() -> None:
    found = simulate(100_000)
    # torch and the rest of our packages are most of it.
    assert found.peak_mib < 1024


@pytest.mark.slow
@pytest.mark.ray
def test_forecasts_stand_beside_runs(ray_settings: Settings, tmp_path: Path) -> None:
    settings = ray_settings.model_copy(update={"work": tmp_path})
    runs, simulation = bench_plan(settings, scenes=None, recipe="small", num_planned=1, smoke=True)
    assert simulation.num_scenes == 100
    assert [run.num_cores for run in runs] == [1, 2]
    for run in runs:
        assert run.num_bytes == pytest.approx(run.forecast_bytes, rel=0.2)
        assert run.forecast_clock_s > 0
        assert run.clock_s > 0
        assert run.forecast_core_s <= run.forecast_clock_s * run.num_cores * 1.0001
    written = json.loads((settings.work / "bench" / "plan-smoke.json").read_text())
    assert written["runs"][0]["num_cores"] == 1
