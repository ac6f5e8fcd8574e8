import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds

from pipelines.datasets.plan import ShardSpec
from pipelines.datasets.shards.markers import find_shard
from pipelines.datasets.shards.reading import ShardReader, open_shard
from pipelines.datasets.shards.writing import write_shard
from pipelines.sources.scenes import load_pair
from pipelines.store.folders import LocalFolder


def test_strips_hold_the_pixels_of_pngs_and_give_rows(spec: ShardSpec, tmp_path: Path) -> None:
    png = spec.model_copy(update={"config": spec.config.model_copy(update={"image_codec": "png"})})
    assert png.name != spec.name
    write_shard(spec, LocalFolder(tmp_path))
    write_shard(png, LocalFolder(tmp_path))
    whole, cut = (ShardReader.open(tmp_path / "shards" / f"{one.name}.tar") for one in (png, spec))
    scene = spec.scenes[0].id
    for member in ("vi_gt", "ir_clean", "vi_blur", "ir_stripe_noise"):
        image = whole.image(scene, member)
        assert np.array_equal(cut.image(scene, member), image)
        for rows in ((0, 64), (0, 1), (31, 33), (40, 64), (10, 90)):
            for reader in (whole, cut):
                part = reader.image(scene, member, rows=rows)
                assert np.array_equal(part, image[slice(*rows)])


def plain_array(data: bytes) -> np.ndarray:
    """How anybody reads an `.npy.zst`."""
    return np.load(io.BytesIO(pa.input_stream(pa.BufferReader(data), compression="zstd").read()))


def test_a_plain_webdataset_reader_can_read_it(spec: ShardSpec, tmp_path: Path) -> None:
    png = spec.model_copy(update={"config": spec.config.model_copy(update={"image_codec": "png"})})
    for one in (spec, png):
        write_shard(one, LocalFolder(tmp_path))
    vi, _ = load_pair(spec.scenes[0])
    urls = [str(tmp_path / "shards" / f"{one.name}.tar") for one in (spec, png)]
    arrays = wds.WebDataset(urls[0], shardshuffle=False).map_dict(**{"vi_gt.npy.zst": plain_array})
    pictures = wds.WebDataset(urls[1], shardshuffle=False).decode("rgb8", only="vi_gt.png")
    for dataset, field in ((arrays, "vi_gt.npy.zst"), (pictures, "vi_gt.png")):
        samples = list(dataset)
        assert [sample["__key__"] for sample in samples] == [scene.id for scene in spec.scenes]
        assert np.array_equal(samples[0][field], vi)


def test_half_a_shard_is_never_whole(spec: ShardSpec, tmp_path: Path) -> None:
    info = write_shard(spec, LocalFolder(tmp_path)).info
    tar = tmp_path / "shards" / f"{spec.name}.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    assert find_shard(LocalFolder(tmp_path), spec.name) is None
    with pytest.raises(ValueError, match="damaged"):
        open_shard(LocalFolder(tmp_path), info)
    write_shard(spec, LocalFolder(tmp_path))
    assert tar.read_bytes() == whole


def test_not_a_tar(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="not a readable shard"):
        ShardReader.open(tmp_path / "x.png")
