"""WebDataset's own pipeline reads shards, pictures and groups, with a file that can be copied."""

import ast
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from pipelines.batches.samplers import GroupSample
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.shards import webdataset_stages
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.shards.webdataset_stages import contrastive_groups, decode_picture
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]


@pytest.fixture(params=["strips", "png"])
def either(
    request: pytest.FixtureRequest, config: DatasetConfig, scenes: list[Scene], tmp_path: Path
) -> Published:
    """A version of each codec."""
    shard = config.shard.model_copy(update={"image_codec": request.param})
    root = LocalFolder(tmp_path)
    return make_version(root, config.model_copy(update={"shard": shard}), scenes[:9]), root


def urls(published: Published) -> list[str]:
    version, root = published
    return [str(root.path / "shards" / f"{shard.name}.tar") for shard in version.shards]


def test_decode_gives_the_pictures(either: Published) -> None:
    version, root = either
    decoded = {
        sample["__key__"]: sample
        for sample in wds.WebDataset(urls(either), shardshuffle=False).decode(decode_picture)
    }
    num_pictures = 0
    for info in version.shards:
        with closing(open_shard(root, info)) as reader:
            for scene, meta in reader.metas.items():
                assert decoded[scene]["json"]["id"] == scene
                for field, picture in decoded[scene].items():
                    if field.endswith((".npy.zst", ".png")):
                        member = field.partition(".")[0]
                        assert np.array_equal(picture, reader.image(scene, member))
                        num_pictures += 1
                assert meta.id == scene
    assert num_pictures == sum(shard.num_images for shard in version.shards)


def test_groups_are_the_samples_that_training_reads(either: Published) -> None:
    version, root = either
    batches = ShardBatches(version, root, Batching(("vi_lq",), batch_size=1, crop_px=32, seed=1))
    trained = {}
    for position in range(len(batches)):
        sample = batches.sample_at(position)
        assert isinstance(sample, GroupSample)
        trained[sample.scene, sample.group.vi] = sample
    groups = list(wds.WebDataset(urls(either), shardshuffle=False).compose(contrastive_groups))
    assert len(groups) == len(trained) == version.num_groups
    for one in groups:
        sample = trained[one["__key__"], one["vi"]]
        assert one["ir"] == sample.group.ir
        expected = pictures_of(sample)
        assert expected.keys() <= one.keys()
        for name, pictures in expected.items():
            assert len(pictures) == len(one[name])
            assert all(np.array_equal(*pair) for pair in zip(pictures, one[name], strict=True))
    batches.close()


def pictures_of(sample: GroupSample) -> dict[str, Any]:
    """What the stream decodes for a sample, uncut."""
    group, image = sample.group, sample.reader.image
    vi, ir = f"vi_{group.vi}", f"ir_{group.ir}"
    return {
        "vi_lq": image(sample.scene, vi),
        "ir_lq": image(sample.scene, ir),
        "vi_gt": image(sample.scene, "vi_gt"),
        "ir_gt": image(sample.scene, "ir_gt"),
        "vi_pos": [image(other, vi) for other in group.vi_positives],
        "ir_pos": [image(other, ir) for other in group.ir_positives],
        "neg": [image(sample.scene, member) for member in group.negatives],
    }


def test_after_decode_it_gives_the_same(either: Published) -> None:
    def first(stages: Iterable[Any]) -> np.ndarray:
        return next(iter(stages))["neg"][0]

    plain = wds.WebDataset(urls(either), shardshuffle=False)
    decoded = wds.WebDataset(urls(either), shardshuffle=False).decode(decode_picture)
    assert np.array_equal(
        first(plain.compose(contrastive_groups)), first(decoded.compose(contrastive_groups))
    )


def test_a_group_of_absent_pictures_is_named() -> None:
    group = {
        "vi": "blur",
        "ir": "clean",
        "vi_positives": ["b"],
        "ir_positives": [],
        "negatives": [],
    }
    sample = {"__key__": "a", "__url__": "s.tar", "json": {"groups": [group]}}
    with pytest.raises(ValueError, match=r"refers to a\.vi_blur, which is not in its shard"):
        next(contrastive_groups([sample]))


def test_the_file_can_be_copied() -> None:
    tree = ast.parse(Path(webdataset_stages.__file__).read_text())
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
        if name
    }
    ours = {"degradations", "models", "pipelines", "infra", "jobs", "tests"}
    assert modules.isdisjoint(ours)
