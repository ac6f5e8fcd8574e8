"""Scenes: their pictures as they were scanned, and scenes with one camera."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.sources.scan import scan
from pipelines.sources.scenes import (
    Native,
    Scene,
    fetched_scenes,
    load_pair,
    load_picture,
    read_file,
)
from pipelines.store.seeding import digest_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One pair of constant pictures; the visible one is red (BGR in the file)."""
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 2] = 200
    for camera, picture in (("vi", red), ("ir", np.full((16, 16), 7, np.uint8))):
        (tmp_path / camera).mkdir()
        assert cv2.imwrite(str(tmp_path / camera / "a.png"), picture)
    return tmp_path


def alone(scene: Scene) -> Scene:
    """The infrared camera of a scene alone."""
    kept = scene.model_dump(exclude={"vi_uri", "vi_sha256", "vi_phash"})
    return Scene.model_validate(kept)


def test_channel_order_is_rgb(folder: Path) -> None:
    vi, ir = load_pair(scan(folder).scenes[0])
    assert vi[0, 0].tolist() == [200, 0, 0]
    assert ir[0, 0].tolist() == [7]


def test_a_source_that_changed_is_not_used(folder: Path) -> None:
    scene = scan(folder).scenes[0]
    cv2.imwrite(scene.source("vi")[0], np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="changed since"):
        load_pair(scene)


def test_a_scene_with_one_camera_has_that_picture_only(folder: Path) -> None:
    pair = scan(folder).scenes[0]
    scene = alone(pair)
    assert (pair.cameras, scene.cameras) == (("vi", "ir"), ("ir",))
    assert np.array_equal(load_picture(scene, "ir"), load_pair(pair)[1])
    with pytest.raises(ValueError, match=rf"scene '{scene.id}' has no vi picture"):
        load_pair(scene)
    assert scene.digest == digest_of([scene.id, None, pair.ir_sha256])


def test_a_scene_with_one_camera_is_fetched(folder: Path) -> None:
    scene = alone(scan(folder).scenes[0])
    remote = scene.model_copy(update={"ir_uri": f"s3://{scene.ir_uri}"})
    with fetched_scenes([remote], lambda uri: read_file(uri.removeprefix("s3://"))) as [local]:
        assert local.vi_uri is None
        assert load_picture(local, "ir").shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ir_uri": None, "ir_sha256": None}, "a visible or an infrared picture"),
        ({"ir_uri": None}, "ir_uri and ir_sha256 go together"),
        (
            {"natives": (Native(member="vi_rain", uri="a", sha256="b"),)},
            "native vi_rain of a camera",
        ),
    ],
)
def test_a_scene_without_a_whole_picture_is_refused(
    folder: Path, changed: dict[str, object], message: str
) -> None:
    scene = alone(scan(folder).scenes[0])
    with pytest.raises(ValidationError, match=message):
        Scene.model_validate(scene.model_dump() | changed)
