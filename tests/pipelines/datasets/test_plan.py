import albumentations as A
import pytest
from pydantic import ValidationError

from degradations.blur import BlurRanges
from degradations.catalogue import ViRanges
from degradations.weather import HazeRanges
from jobs.recipes.datasets import paper, shipped, small
from pipelines.datasets.plan import DatasetConfig, ShardConfig, plan_shards
from pipelines.sources.scenes import Scene


def scene(index: int, *, vi_sha256: str = "a") -> Scene:
    return Scene(
        id=f"s-{index:05}",
        dataset="d",
        split="train",
        vi_uri=f"/vi/{index}.png",
        ir_uri=f"/ir/{index}.png",
        width=8,
        height=8,
        vi_sha256=vi_sha256,
        ir_sha256="b",
    )


def names(config: DatasetConfig, scenes: list[Scene]) -> set[str]:
    return {spec.name for spec in plan_shards(config, scenes)}


@pytest.fixture
def big() -> DatasetConfig:
    return DatasetConfig(name="big", scenes_per_shard=20)


def test_every_scene_once_and_every_shard_holds_a_group(big: DatasetConfig) -> None:
    specs = plan_shards(big, [scene(index) for index in range(500)])
    ids = [member.id for spec in specs for member in spec.scenes]
    assert sorted(ids) == [scene(index).id for index in range(500)]
    assert all(4 <= len(spec.scenes) <= 20 for spec in specs)


def test_order_of_scenes_does_not_matter(big: DatasetConfig) -> None:
    scenes = [scene(index) for index in range(100)]
    assert list(plan_shards(big, scenes)) == list(plan_shards(big, scenes[::-1]))


def test_one_scene_more_changes_one_shard_or_splits_it(big: DatasetConfig) -> None:
    scenes = [scene(index) for index in range(300)]
    before = names(big, scenes)
    for extra in range(300, 320):
        after = names(big, [*scenes, scene(extra)])
        assert len(before - after) == 1
        assert len(after - before) in (1, 2)


def test_one_changed_picture_changes_one_shard(big: DatasetConfig) -> None:
    scenes = [scene(index) for index in range(300)]
    changed = [scene(7, vi_sha256="other") if index == 7 else scene(index) for index in range(300)]
    assert len(names(big, scenes) - names(big, changed)) == 1


def test_moving_the_files_changes_nothing(big: DatasetConfig) -> None:
    scenes = [scene(index) for index in range(40)]
    moved = [item.model_copy(update={"vi_uri": "/elsewhere"}) for item in scenes]
    assert names(big, scenes) == names(big, moved)


@pytest.mark.parametrize(
    ("recipe", "address"),
    [
        (paper(), "569a460598e73df954218954"),
        (shipped(), "da6752c2b2c5b6839d9de459"),
        (small(), "06f4c0c9847f85bf2bd07d0d"),
    ],
)
def test_the_address_of_a_recipe_is_what_it_always_was(recipe: DatasetConfig, address: str) -> None:
    """A new degradation or setting must not rebuild the shards that do not use it."""
    assert names(recipe, [scene(index) for index in range(12)]) == {address}


def test_ranges_count_where_they_are_used(config: DatasetConfig) -> None:
    scenes = [scene(index) for index in range(10)]

    def with_ranges(ranges: ViRanges) -> DatasetConfig:
        return config.model_copy(
            update={"shard": config.shard.model_copy(update={"vi_ranges": ranges})}
        )

    unused = with_ranges(ViRanges(haze=HazeRanges(**_first_field_shifted(HazeRanges()))))
    used = with_ranges(ViRanges(blur=BlurRanges(**_first_field_shifted(BlurRanges()))))
    assert names(config, scenes) == names(unused, scenes)
    assert names(config, scenes).isdisjoint(names(used, scenes))


def test_own_transforms_and_parts_are_in_the_address() -> None:
    scenes = [scene(index) for index in range(10)]

    def shard(limit: int, sigma: float = 14.0) -> ShardConfig:
        motion = A.to_dict(A.MotionBlur(blur_limit=limit, p=1))
        return ShardConfig(
            vi=("motion_blur+gaussian_noise", *small().shard.vi),
            own={"vi": {"motion_blur": motion}},
            vi_ranges={"gaussian_noise": {"sigma_range_level": (sigma, sigma)}},
        )

    configs = [DatasetConfig(name="d", shard=one) for one in (shard(7), shard(9), shard(7, 8.0))]
    assert len(set.union(*(names(config, scenes) for config in configs))) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vi": ("blur", "rain+motion")}, "no degradation 'motion'"),
        ({"own": {"vi": {"motion": {}}}}, "own.vi, motion: 'transform' is missing"),
        (
            {"own": {"vi": {"motion": A.to_dict(A.MotionBlur(p=1))}}},
            r"own.vi has \['motion'\], which vi does not name",
        ),
    ],
)
def test_names_without_a_kernel_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ShardConfig(**settings)


def test_members_of_ones_own_are_known() -> None:
    motion = A.to_dict(A.MotionBlur(p=1))
    shard = ShardConfig(
        vi=("motion", "motion+rain", *small().shard.vi), own={"vi": {"motion": motion}}
    )
    assert shard.own_members() == {"vi_motion", "vi_motion+rain"}
    assert small().shard.own_members() == set()


def _first_field_shifted(ranges: HazeRanges | BlurRanges) -> dict[str, object]:
    values = ranges.model_dump()
    name, value = next((key, item) for key, item in values.items() if isinstance(item, tuple))
    return {**values, name: (value[0], value[0] + 0.9 * (value[1] - value[0]))}


def test_too_few_scenes_or_negatives() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        plan_shards(DatasetConfig(name="d"), [scene(index) for index in range(3)])
    with pytest.raises(ValidationError, match="needs 6"):
        ShardConfig(vi=("blur",), ir=("random_noise",))
    with pytest.raises(ValidationError, match="known: blur"):
        ShardConfig(vi=("blurr",))
    with pytest.raises(ValidationError, match="twice"):
        ShardConfig(vi=("blur", "blur", "rain"))
