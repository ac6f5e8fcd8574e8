"""A changed kernel changes the address; what it did not touch is copied, and nothing else."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from degradations import catalogue
from degradations.blur import BlurRanges
from degradations.catalogue import ViRanges
from infra.storage.s3_folder import S3Folder
from pipelines.datasets.garbage import delete_garbage, find_garbage
from pipelines.datasets.groups import draw_groups
from pipelines.datasets.plan import SCHEMA_VERSION, DatasetConfig, ShardPlan, plan_shards
from pipelines.datasets.shards.row_strips import encode_strips
from pipelines.datasets.shards.writing import WrittenShard, write_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import (
    DatasetVersion,
    earlier_of,
    find_version,
    list_versions,
    retire_version,
    split_reuse,
)
from pipelines.sources.pictures import decode_ir, decode_vi, encode_png
from pipelines.sources.scenes import Scene, read_file
from pipelines.store.folders import LocalFolder
from pipelines.store.seeding import digest_of
from tests.conftest import make_version
from tests.pipelines.datasets.shards.test_writing import hybrid_scenes
from tests.s3_servers import make_bucket

Published = tuple[DatasetVersion, LocalFolder]
MEMBERS = {"vi_gt", "ir_gt", "vi_clean", "ir_clean"}


def no_source(uri: str) -> bytes:
    raise AssertionError(f"{uri} was read")


@pytest.fixture
def change_blur(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Halve the output of blur, under another version of the kernel."""

    def change(version: int) -> None:
        entry = catalogue.find("vi", "blur")
        halved = replace(
            entry, version=version, apply=lambda image, params: entry.apply(image, params) / 2
        )
        table = [halved if line is entry else line for line in catalogue._TABLE]
        monkeypatch.setattr(catalogue, "_TABLE", tuple(table))

    return change


def write_all(
    plan: ShardPlan, root: LocalFolder, read: Callable[[str], bytes] = read_file
) -> list[WrittenShard]:
    return [write_shard(spec, root, read) for spec in plan]


def tars(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "shards").glob("*.tar")}


def test_a_changed_kernel_is_made_again_and_all_else_copied(
    version_root: Published,
    config: DatasetConfig,
    scenes: list[Scene],
    change_blur: Callable[[int], None],
    tmp_path: Path,
) -> None:
    version, root = version_root
    change_blur(2)
    earlier = earlier_of(version, config.shard)
    reused, to_build = split_reuse(plan_shards(config, scenes, earlier), root)
    assert reused == []
    before = tars(root.path)
    written = write_all(to_build, root, no_source)
    # All pictures but the blurred ones, and no source was read.
    assert sum(shard.num_copied for shard in written) == 7 * len(scenes)
    full = LocalFolder(tmp_path / "full")
    whole = write_all(plan_shards(config, scenes), full)
    made = {name: data for name, data in tars(root.path).items() if name not in before}
    assert made == tars(full.path)
    assert [shard.info for shard in written] == [shard.info for shard in whole]
    again = make_version(root, config, scenes)
    assert again.code.kernels == version.code.kernels | {"vi_blur": 2}
    assert verify_version(again, root) == verify_version(version, root) == []


def test_what_else_changes_is_copied_only_where_the_bytes_are_the_same(
    version_root: Published, config: DatasetConfig
) -> None:
    version, _ = version_root

    def copied(**changes: object) -> set[str]:
        shard = config.shard.model_copy(update=changes)
        older = earlier_of(version, shard).shards
        return {member for item in older.values() for member in item.members}

    everything = {f"vi_{name}" for name in config.shard.vi} | {
        f"ir_{name}" for name in config.shard.ir
    }
    everything |= MEMBERS
    assert (
        copied() == copied(num_positives=2) == copied(vi=("rain", *config.shard.vi)) == everything
    )
    blurred = ViRanges(blur=BlurRanges(sigma_range_px=(1.0, 2.0)))
    assert copied(vi_ranges=blurred) == copied(rebuilt={"blur": 1}) == everything - {"vi_blur"}
    assert copied(rebuilt={"random_noise": 1}) == everything - {
        "vi_random_noise", "ir_random_noise",
    }  # fmt: skip
    assert copied(seed=1) == MEMBERS
    assert copied(image_codec="png") == copied(rebuilt={"clean": 1}) == set()


def test_a_lost_older_shard_is_no_loss(
    version_root: Published, config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    version, root = version_root
    shard = config.shard.model_copy(update={"rebuilt": {"blur": 1}})
    config = config.model_copy(update={"shard": shard})
    plan = plan_shards(config, scenes, earlier_of(version, shard))
    first = plan[0].older
    assert first is not None
    (root.path / "shards" / f"{first.name}.tar").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="nothing is copied into"):
        written = write_shard(plan[0], root)
    assert written.num_copied == 0
    alone = plan[0].model_copy(update={"older": None})
    assert written.info == write_shard(alone, LocalFolder(tmp_path / "full")).info


def test_native_variants_are_copied_too(config: DatasetConfig, tmp_path: Path) -> None:
    scenes, root = hybrid_scenes(tmp_path / "sources"), LocalFolder(tmp_path)
    version = make_version(root, config, scenes)
    shard = config.shard.model_copy(update={"rebuilt": {"low_light": 1}})
    config = config.model_copy(update={"shard": shard})
    read: list[str] = []
    plan = plan_shards(config, scenes, earlier_of(version, shard))
    infos = [
        write_shard(spec, root, lambda uri: read.append(uri) or read_file(uri)).info
        for spec in plan
    ]
    # A clean input that is its target was not stored: whether it still is can only be looked up.
    assert {Path(uri).name for uri in read} == {"b_Norm.png"}
    full = LocalFolder(tmp_path / "full")
    assert infos == [shard.info for shard in write_all(plan_shards(config, scenes), full)]


def test_the_codecs_have_the_bytes_of_their_version() -> None:
    """As for the kernels: who changes these must raise CODEC_VERSION, and write the digest here."""
    rng = np.random.default_rng(3)
    vi, ir = (rng.integers(0, 256, (40, 24, channels), np.uint8) for channels in (3, 1))
    with_alpha = np.dstack([vi, ir])
    files = [cv2.imencode(".png", image)[1].tobytes() for image in (vi, ir, with_alpha)]
    read = [decode_vi(data, "x").tolist() for data in files] + [decode_ir(files[1], "x").tolist()]
    assert digest_of(read)[:16] == "dc0f8844cf8e708e"
    encoded = [encode(image).hex() for encode in (encode_png, encode_strips) for image in (vi, ir)]
    assert digest_of(encoded)[:16] == "4844936e37f4ba9f"


def test_the_groups_are_those_of_the_schema(config: DatasetConfig) -> None:
    """Who changes how groups are drawn must raise SCHEMA_VERSION, and write the digest here."""
    scenes = [
        Scene(id=name, dataset="d", split="train", vi_uri="v", ir_uri="i", width=8, height=8,
              vi_sha256=name, ir_sha256=name)
        for name in "abcdef"
    ]  # fmt: skip
    drawn = [
        group.model_dump() for scene in scenes for group in draw_groups(scene, scenes, config.shard)
    ]
    assert digest_of([SCHEMA_VERSION, drawn])[:16] == "3dbd871cecd150e2"


def test_on_s3_as_on_disk(
    config: DatasetConfig, scenes: list[Scene], moto_url: str, tmp_path: Path
) -> None:
    """Copy from a version, publish, retire the old one, and free what only it needed."""
    root = S3Folder(make_bucket(moto_url, "incremental"), moto_url, None)
    old = make_version(root, config, scenes)
    shard = config.shard.model_copy(update={"rebuilt": {"blur": 1}})
    config = config.model_copy(update={"shard": shard})
    plan = plan_shards(config, scenes, earlier_of(old, shard))
    written = [write_shard(spec, root, no_source) for spec in plan]
    whole = write_all(plan_shards(config, scenes), LocalFolder(tmp_path))
    assert [item.info for item in written] == [item.info for item in whole]
    new = make_version(root, config, scenes)
    with pytest.raises(ValueError, match="needed by run 1"):
        retire_version(root, old.name, lambda: ["run 1"])
    retire_version(root, old.name, lambda: [])
    assert list_versions(root) == [new] == [find_version(root, config.name)]
    garbage = find_garbage(root, now_s=time.time() + 60, min_age_s=0)
    assert {Path(entry.name).stem for entry in garbage.shards} == {
        shard.name for shard in old.shards
    }
    delete_garbage(root, garbage)
    assert verify_version(new, root) == []
    retire_version(root, new.name, lambda: [])
    assert list(root.entries("versions/")) == []
