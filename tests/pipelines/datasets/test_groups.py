"""Who anchors a group with whom."""

import pytest
from pydantic import ValidationError

from jobs.recipes.datasets import small
from jobs.recipes.drfusion import drfusion_composite
from pipelines.datasets.groups import Group, draw_groups
from pipelines.datasets.plan import ShardConfig
from pipelines.sources.scenes import Scene


def groups_of(config: ShardConfig, scenes: list[Scene]) -> list[Group]:
    return [group for scene in scenes for group in draw_groups(scene, scenes, config)]


def test_drawn_pairs_meet_clean_pictures_too(scenes: list[Scene]) -> None:
    shard = small().shard
    groups = groups_of(shard, scenes)
    assert len(groups) == len(scenes) * (1 + len(shard.vi))
    assert {group.vi for group in groups} == {"clean", *shard.vi}
    assert {group.ir for group in groups} == {"clean", *shard.ir}


def test_matched_pairs_suffer_the_same_scenario(scenes: list[Scene]) -> None:
    two = ShardConfig(
        vi=("gaussian_noise", "gaussian_blur+gaussian_noise"),
        ir=("gaussian_noise", "gaussian_blur+gaussian_noise+low_resolution"),
        pairing="matched",
        num_negatives=4,
    )
    pairs = [(group.vi, group.ir) for group in groups_of(two, scenes)]
    assert pairs == [*zip(two.vi, two.ir, strict=True)] * len(scenes)
    (composite,) = {(one.vi, one.ir) for one in groups_of(drfusion_composite().shard, scenes)}
    assert composite == (two.vi[1], two.ir[1])


def test_matched_needs_as_many_of_each() -> None:
    with pytest.raises(ValidationError, match="vi names 3 degradations and ir 1"):
        ShardConfig(
            vi=("blur", "rain", "haze"),
            ir=("random_noise",),
            pairing="matched",
            num_negatives=2,
        )
