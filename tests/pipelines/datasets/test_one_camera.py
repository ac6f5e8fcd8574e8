"""Scenes with one camera: planned, written, verified, shown, and read as single pictures."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.batches.samplers import SingleSample
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.checks.leaks import find_leaks
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import DatasetVersion
from pipelines.promotion.lineage import broken, dataset_link, tree_lines
from pipelines.reports.dataset_gallery import write_gallery
from pipelines.sources.scenes import Scene, load_picture, read_file
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]
NO_IR = {"ir_uri": None, "ir_sha256": None, "ir_phash": ""}
NO_VI = {"vi_uri": None, "vi_sha256": None, "vi_phash": ""}


@pytest.fixture(scope="module")
def mixed(scenes: list[Scene]) -> list[Scene]:
    """Eight pairs, four scenes with a visible picture only and four with an infrared one."""
    alone = [scene.model_copy(update=NO_IR) for scene in scenes[8:12]]
    return [*scenes[:8], *alone, *(scene.model_copy(update=NO_VI) for scene in scenes[12:])]


@pytest.fixture
def published(config: DatasetConfig, mixed: list[Scene], tmp_path: Path) -> Published:
    root = LocalFolder(tmp_path)
    return make_version(root, config, mixed), root


def open_singles(published: Published, *fields: str) -> ShardBatches:
    version, root = published
    batching = Batching(fields, batch_size=8, crop_px=32, seed=1, sampler="singles")
    return ShardBatches(version, root, batching)


def test_they_have_shards_of_their_own_and_leave_those_of_pairs_alone(
    config: DatasetConfig, mixed: list[Scene]
) -> None:
    plan = plan_shards(config, mixed)
    assert [len({len(scene.cameras) for scene in spec.scenes}) for spec in plan] == [1] * len(plan)
    assert sorted(scene.id for spec in plan for scene in spec.scenes) == sorted(
        scene.id for scene in mixed
    )
    assert set(plan_shards(config, mixed[:8]).names()) < set(plan.names())
    # They need no company for a group; pairs beside them still do.
    assert plan_shards(config, mixed[8:9]).num_scenes == 1
    with pytest.raises(ValueError, match="3 scenes, but a group with 3 positives"):
        plan_shards(config, mixed[5:])


def test_a_shard_holds_the_members_of_the_camera_and_no_group(
    published: Published, config: DatasetConfig, mixed: list[Scene]
) -> None:
    version, root = published
    metas = {}
    for info in version.shards:
        reader = open_shard(root, info)
        metas |= {scene: (reader, meta) for scene, meta in reader.metas.items()}
        assert info.num_images == sum(meta.num_images for meta in reader.metas.values())
    for scene in mixed[8:]:
        reader, meta = metas[scene.id]
        [camera] = scene.cameras
        assert meta.cameras == scene.cameras
        assert meta.groups == ()
        assert len(meta.variants) == 3
        assert all(member.startswith(camera) for member in meta.variants)
        assert np.array_equal(reader.image(scene.id, f"{camera}_gt"), load_picture(scene, camera))
        assert not reader.has_image(scene.id, "ir_gt" if camera == "vi" else "vi_gt")
    assert version.num_groups == 8 * (1 + len(config.shard.vi))


def test_singles_reach_them_and_groups_do_not(published: Published, mixed: list[Scene]) -> None:
    batches = open_singles(published, "lq", "gt", "camera", "task")
    seen: Counter[str] = Counter()
    for position in range(len(batches)):
        sample = batches.sample_at(position)
        assert isinstance(sample, SingleSample)
        assert sample.camera in next(s for s in mixed if s.id == sample.scene).cameras
        seen[sample.scene] += 1
    # A clean picture and three degraded ones of each camera.
    assert seen == {scene.id: 4 * len(scene.cameras) for scene in mixed}
    for step in range(len(batches) // 8):
        batch = batches.batch(step)
        assert batch["lq"].shape == batch["gt"].shape == (8, 3, 32, 32)
    version, root = published
    groups = ShardBatches(version, root, Batching(("vi_lq",), batch_size=2, crop_px=32, seed=1))
    alone = {scene.id for scene in mixed[8:]}
    assert alone.isdisjoint(groups.sample_at(position).scene for position in range(len(groups)))


def test_without_a_pair_the_other_samplers_say_which_to_use(
    config: DatasetConfig, mixed: list[Scene], tmp_path: Path
) -> None:
    root = LocalFolder(tmp_path)
    version = make_version(root, config, mixed[8:])
    assert len(open_singles((version, root), "lq")) == 8 * 4
    batching = Batching(("vi_lq",), batch_size=2, crop_px=32, seed=1, sampler="pairs")
    with pytest.raises(ValueError, match=r"no sample for sampler 'pairs'.*singles"):
        ShardBatches(version, root, batching)


def test_it_is_whole_and_can_be_looked_at(published: Published, tmp_path: Path) -> None:
    version, root = published
    assert verify_version(version, root) == []
    write_gallery(version, root, tmp_path / "page.html")
    assert "Contrastive groups" in (tmp_path / "page.html").read_text()


def test_a_version_without_groups_can_be_looked_at(
    config: DatasetConfig, mixed: list[Scene], tmp_path: Path
) -> None:
    root = LocalFolder(tmp_path)
    version = make_version(root, config, mixed[12:])
    write_gallery(version, root, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Contrastive groups" not in page
    assert "IR low contrast" in page
    assert "VI reference" not in page


def test_lineage_reads_the_files_that_there_are(published: Published, mixed: list[Scene]) -> None:
    version, root = published
    link = dataset_link(version, root, version.digest, mixed, read=read_file, each_scene=True)
    assert broken(link) == []
    text = "\n".join(tree_lines(link))
    assert "scenes  16, 24 source files" in text
    assert f"scene {mixed[8].id}  vi {mixed[8].vi_sha256[:12]}  {mixed[8].vi_uri}\n" in text


def test_leaks_compare_the_cameras_that_both_have(scenes: list[Scene]) -> None:
    vi = scenes[0].model_copy(update={"id": "b", "split": "val"} | NO_IR)
    ir = scenes[0].model_copy(update={"id": "c", "split": "test"} | NO_VI)
    found = {(leak.first, leak.second): leak for leak in find_leaks([scenes[0], vi, ir])}
    assert set(found) == {("b", scenes[0].id), ("c", scenes[0].id)}
    assert [(leak.vi_bits, leak.ir_bits) for leak in found.values()] == [(0, None), (None, 0)]
