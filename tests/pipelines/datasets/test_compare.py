from pipelines.datasets.compare import compare_versions
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]


def test_equal_versions_differ_in_nothing(version_root: Published) -> None:
    version, root = version_root
    assert compare_versions(version, version, root) == []


def test_scenes_kernels_ranges_and_counts(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    ranges = config.shard.vi_ranges
    blur = ranges.blur.model_copy(update={"sigma_range_px": (1.0, 2.0)})
    haze = ranges.haze.model_copy(update={"beta_range": (0.0, 0.1)})
    shard = config.shard.model_copy(
        update={
            "vi": ("blur", "rain", "low_light"),
            "vi_ranges": ranges.model_copy(update={"blur": blur, "haze": haze}),
        }
    )
    other = make_version(root, config.model_copy(update={"shard": shard}), scenes[1:])
    changes = dict(compare_versions(version, other, root))
    assert changes["scenes only in the first"] == f"1: {scenes[0].id}"
    assert changes["kernel vi_random_noise"] == "1 → none"
    assert changes["kernel vi_rain"] == "none → 1"
    assert changes["setting shard.vi_ranges.blur.sigma_range_px"] == "[0.2, 4.0] → [1.0, 2.0]"
    assert changes["count scenes"] == f"{len(scenes)} → {len(scenes) - 1}"
    # A range that nothing uses made no difference.
    assert not any("haze" in name for name in changes)
    back = dict(compare_versions(other, version, root))
    assert back["scenes only in the second"] == f"1: {scenes[0].id}"


def test_other_pictures_under_the_same_names(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    vi_uri, vi_sha256 = scenes[1].source("vi")
    changed = scenes[0].model_copy(update={"vi_uri": vi_uri, "vi_sha256": vi_sha256})
    other = make_version(root, config, [changed, *scenes[1:]])
    changes = dict(compare_versions(version, other, root))
    changes.pop("count bytes", None)
    assert changes == {"scenes with other pictures": f"1: {changed.id}"}
