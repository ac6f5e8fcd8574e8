import io
import tarfile
from collections.abc import Callable

import pytest

from pipelines.datasets.shards import SampleMeta
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.files import sha256_of_file, write_whole
from pipelines.store.folders import LocalFolder

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
