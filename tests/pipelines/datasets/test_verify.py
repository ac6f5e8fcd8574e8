import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import albumentations as A
import pytest

from degradations import catalogue, own
from degradations.own import OwnTransforms
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.markers import find_shard, tar_of
from pipelines.datasets.shards.sample import SampleMeta
from pipelines.datasets.verify import remake_scenes, verify_version
from pipelines.datasets.versions import DatasetVersion, find_version, manifest_of
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.files import sha256_of_file, write_whole
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]
Edit = Callable[[str, bytes], bytes | None]


def test_a_whole_version_has_no_problems(version_root: Published) -> None:
    seen: list[tuple[int, int]] = []
    version, root = version_root
    assert verify_version(version, root, on_progress=lambda *at: seen.append(at)) == []
    assert seen[-1] == (len(version.shards), len(version.shards))


def test_a_flipped_bit_a_lost_shard_and_a_lost_marker(version_root: Published) -> None:
    version, root = version_root
    folder = root.path / "shards"
    first, second, third = (shard.name for shard in version.shards[:3])
    data = bytearray((folder / f"{first}.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / f"{first}.tar").write_bytes(data)
    (folder / f"{second}.tar").unlink()
    (folder / f"{third}.json").unlink()
    problems = verify_version(version, root)
    assert len(problems) == 3
    for name, word, problem in zip(
        (first, second, third), ("damaged", "missing", "marker"), problems, strict=True
    ):
        assert name in problem
        assert word in problem


def rewrite(published: Published, edit: Edit) -> DatasetVersion:
    """Change one shard's members and make marker and manifest agree, as a wrong writer would."""
    version, root = published
    info = version.shards[0]
    path = root.path / "shards" / f"{info.name}.tar"
    written = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=written, mode="w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            data = edit(member.name, content.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    path.write_bytes(written.getvalue())
    changed = info.model_copy(
        update={"sha256": sha256_of_file(path), "num_bytes": path.stat().st_size}
    )
    write_whole(path.with_suffix(".json"), changed.model_dump_json().encode())
    return version.model_copy(update={"shards": (changed, *version.shards[1:])})


def lose_a_shard(manifest: dict[str, Any]) -> None:
    manifest["shards"].pop()


def lose_all_shards(manifest: dict[str, Any]) -> None:
    manifest["shards"] = []


def list_one_twice(manifest: dict[str, Any]) -> None:
    manifest["shards"].append(manifest["shards"][0])


def change_the_recipe(manifest: dict[str, Any]) -> None:
    manifest["config"]["shard"]["num_positives"] = 2


def change_a_kernel(manifest: dict[str, Any]) -> None:
    manifest["code"]["kernels"]["vi_blur"] = 7


def lose_a_kernel(manifest: dict[str, Any]) -> None:
    del manifest["code"]["kernels"]["vi_blur"]


def change_the_digest(manifest: dict[str, Any]) -> None:
    manifest["digest"] = "0" * 64


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lose_a_shard, "its digest is not that of its contents"),
        (lose_all_shards, "it lists no shard"),
        (list_one_twice, "it lists shard [0-9a-f]{24} twice"),
        (change_the_recipe, "its digest is not that of its contents"),
        (change_a_kernel, "its digest is not that of its contents"),
        (lose_a_kernel, "its kernels are not those of its recipe"),
        (change_the_digest, "its digest is not that of its contents"),
    ],
)
def test_an_edited_manifest_is_refused_by_whoever_reads_it(
    version_root: Published, edit: Callable[[dict[str, Any]], None], problem: str
) -> None:
    version, root = version_root
    path = root.path / manifest_of(version.name)
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    for name in (version.name, version.config.name):
        with pytest.raises(ValueError, match=problem):
            find_version(root, name)


def test_a_manifest_under_another_name(version_root: Published) -> None:
    version, root = version_root
    path = root.path / manifest_of(version.name)
    path.rename(path.with_name("other-000000000000.json"))
    with pytest.raises(ValueError, match=f"it is the manifest of {version.name}"):
        find_version(root, "other-000000000000")


def test_a_marker_without_its_shard(version_root: Published) -> None:
    version, root = version_root
    info = version.shards[0]
    (root.path / tar_of(info.name)).unlink()
    assert find_shard(root, info.name) is None
    [problem] = verify_version(version, root)
    assert f"{info.name}.tar: missing" in problem


def test_a_picture_that_does_not_decode(version_root: Published) -> None:
    def spoil(name: str, data: bytes) -> bytes:
        return data[: len(data) // 2] if name.endswith("vi_blur.npy.zst") else data

    problems = verify_version(rewrite(version_root, spoil), version_root[1])
    assert len(problems) == version_root[0].shards[0].num_scenes
    assert all("vi_blur cannot be read" in problem for problem in problems)


def test_a_picture_that_is_absent_breaks_its_groups(version_root: Published) -> None:
    _, root = version_root
    scene = ""

    def lose(name: str, data: bytes) -> bytes | None:
        nonlocal scene
        if name.endswith("ir_low_contrast.npy.zst") and not scene:
            scene = name.partition(".")[0]
            return None
        return data

    problems = verify_version(rewrite(version_root, lose), root)
    assert any("ir_low_contrast cannot be read" in problem for problem in problems)
    assert any(f"refers to {scene}.ir_low_contrast, which is absent" in p for p in problems)


def test_groups_that_do_not_resolve_and_counts(version_root: Published) -> None:
    def lead_astray(name: str, data: bytes) -> bytes:
        if not name.endswith(".json"):
            return data
        meta = SampleMeta.model_validate_json(data)
        group = meta.groups[0].model_copy(update={"vi_positives": ("nobody",) * 3})
        return meta.model_copy(update={"groups": (group,)}).model_dump_json().encode()

    problems = verify_version(rewrite(version_root, lead_astray), version_root[1])
    assert any("refers to nobody.vi_clean" in problem for problem in problems)
    num_scenes = version_root[0].shards[0].num_scenes
    assert any(
        f"holds {num_scenes} groups, the manifest says {4 * num_scenes}" in p for p in problems
    )


@pytest.mark.parametrize("size", [0, 100, 512])
def test_a_tar_cut_to_a_stump(version_root: Published, size: int) -> None:
    version, root = version_root
    tar = root.path / "shards" / f"{version.shards[0].name}.tar"
    tar.write_bytes(tar.read_bytes()[:size])
    [problem] = verify_version(version, root)
    assert "damaged" in problem


Meta = dict[str, Any]


def another_schema(meta: Meta) -> None:
    meta["schema_version"] = 99


def too_few_positives(meta: Meta) -> None:
    meta["groups"][1]["ir_positives"].pop()


def the_same_positive_twice(meta: Meta) -> None:
    positives = meta["groups"][1]["vi_positives"]
    positives[1] = positives[0]


def too_few_negatives(meta: Meta) -> None:
    meta["groups"][0]["negatives"].pop()


def itself_as_positive(meta: Meta) -> None:
    meta["groups"][0]["vi_positives"][0] = meta["id"]


def an_anchor_as_negative(meta: Meta) -> None:
    meta["groups"][1]["negatives"][0] = "vi_blur"


def a_group_less(meta: Meta) -> None:
    meta["groups"].pop()


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (another_schema, "has schema 99, this code reads"),
        (too_few_positives, "has 2 different IR positives, the recipe says 3"),
        (the_same_positive_twice, "has 2 different VI positives, the recipe says 3"),
        (too_few_negatives, "has 5 different negatives, the recipe says 6"),
        (itself_as_positive, "has its own scene among the positives"),
        (an_anchor_as_negative, "has its anchor vi_blur among the negatives"),
        (a_group_less, "its groups are of"),
    ],
)
def test_what_a_reader_relies_on_is_checked(
    version_root: Published, edit: Callable[[Meta], None], problem: str
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(".json"):
            return data
        meta = json.loads(data)
        edit(meta)
        return json.dumps(meta).encode()

    problems = verify_version(rewrite(version_root, change), version_root[1])
    assert any(problem in line for line in problems), problems


def test_scenes_made_again_are_the_same_bytes(
    version_root: Published, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, root = version_root
    table = SceneTable.of(scenes)
    assert remake_scenes(version, root, table, num_scenes=100) == {}
    # A library's upgrade: other pixels, and no version of ours that changed.
    blur = catalogue.find("vi", "blur")
    upgraded = replace(blur, apply=lambda image, params: blur.apply(image, params) * 0.99)
    lines = [upgraded if line is blur else line for line in catalogue._TABLE]
    monkeypatch.setattr(catalogue, "_TABLE", tuple(lines))
    changed = remake_scenes(version, root, table, num_scenes=4)
    assert len(changed) == 4
    assert all(members == {"vi_blur"} for members in changed.values())
    lines = [replace(line, version=2) if line is upgraded else line for line in lines]
    monkeypatch.setattr(catalogue, "_TABLE", tuple(lines))
    with pytest.raises(ValueError, match="only the same versions can be compared"):
        remake_scenes(version, root, table, num_scenes=1)


def test_matched_pairs_are_whole(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    shard = config.shard.model_copy(update={"pairing": "matched"})
    root = LocalFolder(tmp_path)
    version = make_version(root, config.model_copy(update={"shard": shard}), scenes[:5])
    assert verify_version(version, root) == []


def test_an_old_version_stays_readable_when_albumentations_is_upgraded(
    config: DatasetConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    motion = A.to_dict(A.MotionBlur(blur_limit=(7, 9), p=1))
    shard = config.shard.model_copy(
        update={"vi": ("motion", *config.shard.vi), "own": OwnTransforms(vi={"motion": motion})}
    )
    config, root = config.model_copy(update={"shard": shard}), LocalFolder(tmp_path)
    version = make_version(root, config, scenes[:5])
    assert any(library.startswith("albumentations==") for library in version.libraries)
    names = plan_shards(config, scenes[:5]).names()
    monkeypatch.setattr(own, "version", lambda _: "9.9.9")
    assert find_version(root, version.name) == version
    # The address of what is made now is another.
    assert set(names).isdisjoint(plan_shards(config, scenes[:5]).names())
