from pipelines.datasets.versions import DatasetVersion
from pipelines.probes.known_pictures import degraded_pictures, single_scenarios, stored_pictures
from pipelines.scenarios.table import find_scenario
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder

CONDITIONS = {
    "ir_clean", "ir_low_contrast", "ir_random_noise", "ir_stripe_noise",
    "vi_clean", "vi_blur", "vi_random_noise", "vi_low_light",
}  # fmt: skip


def test_pictures_of_scenes_and_of_shards_suffer_the_same(
    scenes: list[Scene], version_root: tuple[DatasetVersion, LocalFolder]
) -> None:
    version, root = version_root
    scenarios = single_scenarios(version.config.shard)
    made = list(degraded_pictures(scenes[:2], scenarios, seed=0))
    stored = list(stored_pictures(version, root))
    assert {picture.condition for picture in made} == CONDITIONS
    assert {picture.condition for picture in stored} == CONDITIONS
    assert len(made) == 2 * len(CONDITIONS)
    assert all(picture.condition.startswith(picture.camera) for picture in (*made, *stored))


def test_mixed_scenarios_show_both_cameras(scenes: list[Scene]) -> None:
    mixed = find_scenario("low_light+stripe_noise")
    pictures = list(degraded_pictures(scenes[:1], [mixed], seed=0))
    assert [picture.condition for picture in pictures] == ["ir_stripe_noise", "vi_low_light"]
