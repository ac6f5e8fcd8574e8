import hashlib
import json
import pickle
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import webdataset as wds

from degradations.chain import apply_chain
from degradations.own import OwnTransforms
from pipelines.datasets.plan import DatasetConfig, ShardConfig, ShardSpec, plan_shards
from pipelines.datasets.shards.reading import ShardReader
from pipelines.datasets.shards.writing import BadSourcesError, WrittenShard, try_shard, write_shard
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene, load_native, load_pair
from pipelines.store.folders import LocalFolder
from pipelines.store.seeding import digest_of


def test_same_spec_same_bytes(spec: ShardSpec, tmp_path: Path) -> None:
    first = write_shard(spec, LocalFolder(tmp_path / "a")).info
    second = write_shard(spec, LocalFolder(tmp_path / "b")).info
    assert first == second
    digests = [
        hashlib.sha256((tmp_path / folder / "shards" / f"{spec.name}.tar").read_bytes()).hexdigest()
        for folder in ("a", "b")
    ]
    assert digests == [first.sha256, first.sha256]


def test_second_call_writes_nothing(spec: ShardSpec, tmp_path: Path) -> None:
    info = write_shard(spec, LocalFolder(tmp_path)).info
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    assert write_shard(spec, LocalFolder(tmp_path)).info == info
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == stamps


def test_the_pixels_are_the_sources_and_their_records(spec: ShardSpec, tmp_path: Path) -> None:
    write_shard(spec, LocalFolder(tmp_path))
    reader = ShardReader.open(tmp_path / "shards" / f"{spec.name}.tar")
    scene = spec.scenes[0]
    vi, ir = load_pair(scene)
    assert np.array_equal(reader.image(scene.id, "vi_clean"), vi)
    assert np.array_equal(reader.image(scene.id, "ir_clean"), ir)
    variants = reader.metas[scene.id].variants
    assert set(variants) == {f"vi_{name}" for name in spec.config.vi} | {
        f"ir_{name}" for name in spec.config.ir
    }
    for member, chain in variants.items():
        source, modality = (vi, "vi") if member.startswith("vi") else (ir, "ir")
        again = apply_chain(source.astype(np.float32) / 255, modality, chain)
        stored = reader.image(scene.id, member)
        assert np.array_equal(stored, np.rint(again * 255).astype(np.uint8))
        assert not np.array_equal(stored, source)
    reader.close()


def test_own_transforms_and_compositions_are_variants(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    own = OwnTransforms(vi={"motion_blur": A.to_dict(A.MotionBlur(blur_limit=(7, 9), p=1))})
    tree = config.shard.model_dump() | {
        "vi": ("blur", "motion_blur+gaussian_noise", "motion_blur"),
        "own": own,
    }
    shard = ShardConfig.model_validate(tree)
    spec = plan_shards(config.model_copy(update={"shard": shard}), scenes)[0]
    # What travels to a worker and back makes the same.
    again = ShardSpec.model_validate_json(spec.model_dump_json())
    assert again.name == spec.name
    first, second = (
        write_shard(one, LocalFolder(tmp_path / folder)).info
        for one, folder in ((spec, "a"), (again, "b"))
    )
    assert first == second
    reader = ShardReader.open(tmp_path / "a" / "shards" / f"{spec.name}.tar")
    scene = spec.scenes[0]
    vi = load_pair(scene)[0].astype(np.float32) / 255
    for member in ("vi_motion_blur", "vi_motion_blur+gaussian_noise"):
        chain = reader.metas[scene.id].chain(member)
        assert "+".join(applied.name for applied in chain) == member.removeprefix("vi_")
        assert chain[0].params["drawn"][0]["name"] == "MotionBlur"
        expected = np.rint(apply_chain(vi, "vi", chain) * 255).astype(np.uint8)
        assert np.array_equal(reader.image(scene.id, member), expected)
    reader.close()


def test_groups_hold_together(spec: ShardSpec, tmp_path: Path) -> None:
    write_shard(spec, LocalFolder(tmp_path))
    reader = ShardReader.open(tmp_path / "shards" / f"{spec.name}.tar")
    for scene, meta in reader.metas.items():
        assert [group.vi for group in meta.groups] == ["clean", *spec.config.vi]
        for group in meta.groups:
            anchors = {f"vi_{group.vi}", f"ir_{group.ir}"}
            assert len(set(group.negatives)) == spec.config.num_negatives - 1
            assert not anchors & set(group.negatives)
            for positives in (group.vi_positives, group.ir_positives):
                assert len(set(positives)) == spec.config.num_positives
                assert scene not in positives
                assert set(positives) <= reader.metas.keys()
            for negative in group.negatives:
                reader.image(scene, negative)


def test_a_scene_is_stored_once(spec: ShardSpec, tmp_path: Path) -> None:
    info = write_shard(spec, LocalFolder(tmp_path)).info
    variants = len(spec.config.vi) + len(spec.config.ir)
    assert info.num_images == len(spec.scenes) * (2 + variants)


def test_pixels_do_not_depend_on_the_shard(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    whole = config.model_copy(update={"scenes_per_shard": 100})
    images = []
    for index, recipe in enumerate((config, whole)):
        spec = next(s for s in plan_shards(recipe, scenes) if scenes[0] in s.scenes)
        write_shard(spec, LocalFolder(tmp_path / str(index)))
        reader = ShardReader.open(tmp_path / str(index) / "shards" / f"{spec.name}.tar")
        images.append(reader.image(scenes[0].id, "vi_random_noise"))
    assert np.array_equal(*images)


def test_a_failure_leaves_nothing_behind(spec: ShardSpec, tmp_path: Path) -> None:
    broken = spec.scenes[-1].model_copy(update={"vi_sha256": "0" * 64})
    bad = spec.model_copy(update={"scenes": (*spec.scenes[:-1], broken)})
    with pytest.raises(ValueError, match="changed since"):
        write_shard(bad, LocalFolder(tmp_path))
    assert list((tmp_path / "shards").iterdir()) == []


def test_all_bad_sources_of_a_shard_are_named_at_once(spec: ShardSpec, tmp_path: Path) -> None:
    changed = spec.scenes[0].model_copy(update={"vi_sha256": "0" * 64})
    lost = spec.scenes[2].model_copy(update={"ir_uri": "/absent.png"})
    bad = spec.model_copy(update={"scenes": (changed, spec.scenes[1], lost, *spec.scenes[3:])})
    error = try_shard(bad, LocalFolder(tmp_path))
    assert isinstance(error, BadSourcesError)
    assert error.scene_ids == (changed.id, lost.id)
    assert [item.path for item in error.refused] == [changed.vi_uri, "/absent.png"]
    assert [item.reason for item in error.refused] == [
        "changed since it was scanned; run jobs.scan again", "no such file",
    ]  # fmt: skip
    travelled = pickle.loads(pickle.dumps(error))
    assert (str(travelled), travelled.refused) == (str(error), error.refused)
    written = try_shard(spec, LocalFolder(tmp_path))
    assert isinstance(written, WrittenShard)


def hybrid_scenes(folder: Path) -> list[Scene]:
    """Four scenes; the first brings rain and an undegraded input that is not its target."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        for sub, shape in (("VI_enhanced", (16, 20, 3)), ("IR_enhanced", (16, 20))):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / sub / f"{name}.png"), rng.integers(0, 256, shape, np.uint8))
    for sub, name, shape in (
        ("VI", "a_Blur", (16, 20, 3)),
        ("VI", "a_Norm", (16, 20, 3)),
        ("IR", "a_LC", (16, 20)),
    ):
        (folder / sub).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / sub / f"{name}.png"), rng.integers(0, 256, shape, np.uint8))
    for camera in ("VI", "IR"):
        target = (folder / f"{camera}_enhanced" / "b.png").read_bytes()
        (folder / camera / "b_Norm.png").write_bytes(target)
    return list(scan(folder, dataset="hybrid").scenes)


def test_native_variants_go_in_as_they_are(config: DatasetConfig, tmp_path: Path) -> None:
    scenes = hybrid_scenes(tmp_path / "sources")
    [spec] = plan_shards(config, scenes)
    write_shard(spec, LocalFolder(tmp_path))
    reader = ShardReader.open(tmp_path / "shards" / f"{spec.name}.tar")
    first, second = scenes[0], scenes[1]
    vi, _ = load_pair(first)
    meta = reader.metas[first.id]
    assert meta.natives == {native.member: native.sha256 for native in first.natives}
    assert set(meta.natives) == {"vi_blur", "vi_clean", "ir_low_contrast"}
    for member in meta.natives:
        assert np.array_equal(reader.image(first.id, member), load_native(first, member))
        assert member not in meta.variants
    assert np.array_equal(reader.image(first.id, "vi_gt"), vi)
    assert not np.array_equal(reader.image(first.id, "vi_clean"), vi)
    # Equal to its target: stored once, as the target.
    assert reader.metas[second.id].natives == {}
    assert np.array_equal(reader.image(second.id, "ir_clean"), reader.image(second.id, "ir_gt"))
    # What is not native is made.
    assert set(meta.variants) == {
        "vi_random_noise", "vi_low_light", "ir_random_noise", "ir_stripe_noise",
    }  # fmt: skip
    sample = next(
        iter(wds.WebDataset(str(tmp_path / "shards" / f"{spec.name}.tar"), shardshuffle=False))
    )
    assert "vi_blur.npy.zst" in sample


def test_a_changed_native_changes_the_shard(config: DatasetConfig, tmp_path: Path) -> None:
    before = plan_shards(config, hybrid_scenes(tmp_path))
    cv2.imwrite(str(tmp_path / "VI" / "a_Blur.png"), np.zeros((16, 20, 3), np.uint8))
    after = plan_shards(config, list(scan(tmp_path, dataset="hybrid").scenes))
    assert before[0].name != after[0].name


def test_scenes_without_natives_are_what_they_were(spec: ShardSpec, tmp_path: Path) -> None:
    scene = Scene(
        id="s", dataset="d", split="train", vi_uri="v", ir_uri="i", width=8, height=8,
        vi_sha256="a", ir_sha256="b",
    )  # fmt: skip
    assert scene.digest == digest_of(["s", "a", "b"])
    write_shard(spec, LocalFolder(tmp_path))
    samples = wds.WebDataset(str(tmp_path / "shards" / f"{spec.name}.tar"), shardshuffle=False)
    assert list(json.loads(next(iter(samples))["json"])) == [
        "schema_version", "id", "dataset", "split", "width", "height",
        "vi_sha256", "ir_sha256", "variants", "groups",
    ]  # fmt: skip
