"""Figures are measured on real shards; what follows from them is arithmetic, checked by hand."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets.forecast import (
    ClusterSize,
    SceneCost,
    calibrate,
    cost_of_run,
    forecast,
    read_cost,
    write_cost,
)
from pipelines.datasets.plan import DatasetConfig, ShardConfig, ShardPlan, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.sources.scenes import Native, Scene, SceneTable, read_file
from pipelines.store.folders import LocalFolder

ONE_SECOND_A_MEGAPIXEL = SceneCost(core_s=1.0, num_bytes=1000.0, num_scenes=1, source="a test")


def scene(index: int, *, side_px: int = 1000, natives: tuple[Native, ...] = ()) -> Scene:
    return Scene(
        id=f"s-{index:05}",
        dataset="d",
        split="train",
        vi_uri=f"/vi/{index}.png",
        ir_uri=f"/ir/{index}.png",
        width=side_px,
        height=side_px,
        vi_sha256="a",
        ir_sha256="b",
        natives=natives,
    )


def plan_of(shard_sizes: list[int]) -> ShardPlan:
    """A plan with shards of so many one-megapixel scenes."""
    table = SceneTable.of(map(scene, range(sum(shard_sizes))))
    ends = np.cumsum(shard_sizes)
    return ShardPlan(ShardConfig(), table, np.split(np.arange(ends[-1]), ends[:-1]))


def test_names_and_pixels_are_those_of_the_specs() -> None:
    native = Native(member="vi_low_light", uri="/x.png", sha256="c")
    scenes = [
        scene(index, side_px=10 + index, natives=(native,) if index % 3 else ())
        for index in range(90)
    ]
    plan = plan_shards(DatasetConfig(name="d", scenes_per_shard=20), scenes)
    assert len(plan) > 4
    assert plan.names() == [spec.name for spec in plan]
    assert plan.pixels() == [
        sum(member.width * member.height for member in spec.scenes) for spec in plan
    ]
    assert SceneTable.of(scenes).digests() == [member.digest for member in scenes]
    some = plan.only([3, 1])
    assert some.names() == [plan[3].name, plan[1].name]


@pytest.mark.parametrize(
    ("num_cores", "clock_s"),
    [
        (1, 20.0),  # one after the other
        (2, 13.0),  # 5 and 4; the 3 after the 4, the 8 after the 5
        (3, 11.0),  # 5, 4, 3: the 8 starts after the 3
        (1000, 8.0),  # the largest shard
    ],
)
def test_shards_go_in_order_to_the_core_that_is_free_first(num_cores: int, clock_s: float) -> None:
    ahead = forecast(plan_of([5, 4, 3, 8]), ONE_SECOND_A_MEGAPIXEL, num_cores)
    assert ahead.clock_s == pytest.approx(clock_s)
    assert ahead.core_s == pytest.approx(20.0)
    assert ahead.num_bytes == pytest.approx(20_000.0)


def test_a_forecast_of_many_shards_is_nearly_the_share_of_each_core() -> None:
    plan = plan_of([40, 50] * 1000)
    ahead = forecast(plan, ONE_SECOND_A_MEGAPIXEL, 64)
    assert ahead.core_s / 64 <= ahead.clock_s <= ahead.core_s / 64 + 50


def test_figures_are_those_of_the_shards(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    plan = plan_shards(config, scenes)
    cost = calibrate(plan)
    whole = [write_shard(spec, LocalFolder(tmp_path)) for spec in plan]
    megapixels = sum(shard.pixels for shard in whole) / 1e6
    real = sum(shard.info.num_bytes for shard in whole) / megapixels
    assert cost.num_bytes == pytest.approx(real, rel=0.1)
    # Pictures of 80x64 px take milliseconds, so the time is held loosely here; see jobs.bench plan.
    spent = sum(shard.cpu_s for shard in whole) / megapixels
    assert spent / 4 < cost.core_s < spent * 4
    assert cost.source == "8 scenes made here just now"
    assert forecast(plan, cost, 1).core_s == pytest.approx(cost.core_s * megapixels)


def test_waiting_counts_where_sources_are_remote(
    config: DatasetConfig, scenes: list[Scene]
) -> None:
    def slow(uri: str) -> bytes:
        time.sleep(0.05)
        return read_file(uri.removeprefix("s3://"))

    remote = [
        member.model_copy(
            update={"vi_uri": f"s3://{member.vi_uri}", "ir_uri": f"s3://{member.ir_uri}"}
        )
        for member in scenes
    ]
    here = calibrate(plan_shards(config, scenes), slow)
    there = calibrate(plan_shards(config, remote), slow)
    megapixels = 8 * 80 * 64 / 1e6
    assert there.core_s - here.core_s > 0.5 * 16 * 0.05 / megapixels


def test_what_a_run_shows_is_kept_for_its_recipe_and_place(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    shards = [write_shard(spec, LocalFolder(tmp_path)) for spec in plan_shards(config, scenes)]
    cost = cost_of_run(shards, when="2026-01-01 12:00", num_cores=2)
    assert cost.num_scenes == 16
    assert cost.source == "the run of 2026-01-01 12:00: 16 scenes on 2 cores"
    assert read_cost(tmp_path, config.shard, "/anywhere") is None
    write_cost(tmp_path, config.shard, "/anywhere", cost)
    assert read_cost(tmp_path, config.shard, "/elsewhere") == cost
    assert read_cost(tmp_path, config.shard, "s3://bucket/datasets") is None
    other = config.shard.model_copy(update={"image_codec": "png"})
    assert read_cost(tmp_path, other, "/anywhere") is None


def test_a_cluster_is_nodes_times_cores() -> None:
    assert ClusterSize.parse("64x16").num_cores == 1024


@pytest.mark.parametrize("text", ["64", "x16", "64x", "0x4", "4x0", "4x-1", "4 x 4", "4x4x4"])
def test_another_word_for_a_cluster_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"--cluster {text}: write NODESxCORES"):
        ClusterSize.parse(text)
