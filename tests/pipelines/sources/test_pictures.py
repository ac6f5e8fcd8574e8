"""Files that trip a loader: what is taken, and what is refused by name."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.sources.pictures import (
    as_vi,
    decode,
    decode_ir,
    decode_vi,
    encode_png,
    to_levels,
    to_tensor,
)
from tests.conftest import SHARED_DATA, needs_data


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_the_bytes_decide_and_not_the_extension() -> None:
    image = noise((9, 7, 3))
    assert np.array_equal(decode_vi(encode_png(image), "picture.jpg"), image)


def test_equal_channels_are_one_infrared_channel() -> None:
    grey = noise((9, 7, 1))
    assert np.array_equal(decode_ir(encode_png(grey.repeat(3, axis=2)), "x"), grey)
    assert np.array_equal(decode_vi(encode_png(grey), "x"), grey.repeat(3, axis=2))


def test_alpha_goes() -> None:
    image = noise((9, 7, 3))
    with_alpha = np.concatenate([image[:, :, ::-1], noise((9, 7, 1))], axis=2)
    data = cv2.imencode(".png", with_alpha)[1].tobytes()
    assert np.array_equal(decode_vi(data, "x"), image)


def test_exif_rotation_is_applied() -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 255
    data = cv2.imencode(".jpg", upright)[1].tobytes()
    # Orientation 6: the camera was turned; shown, the picture is 32 high and its left is on top.
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    shown = decode_vi(turned, "x")
    assert shown.shape == (32, 16, 3)
    assert shown[:14].min() > 240
    assert shown[18:].max() < 15


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_file_that_is_cut_short_is_refused(suffix: str, share: float) -> None:
    data = cv2.imencode(suffix, noise((40, 50, 3)))[1].tobytes()
    assert decode_vi(data, "whole").shape == (40, 50, 3)
    with pytest.raises(ValueError, match=r"night\.png: not an image that can be decoded"):
        decode_vi(data[: int(len(data) * share)], "night.png")


@needs_data
@pytest.mark.parametrize("name", ["roadscene/val/vi/FLIR_00452.jpg", "msrs/val/vi/00001D.png"])
def test_a_real_file_that_is_cut_short_is_refused(name: str) -> None:
    data = (SHARED_DATA / "ivif" / name).read_bytes()
    for missing in (2, 1000, len(data) // 2):
        with pytest.raises(ValueError, match=f"{Path(name).name}: .*cut short"):
            decode_vi(data[:-missing], name)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_refused_where_eight_are_expected(suffix: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7), np.uint16)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    with pytest.raises(ValueError, match=r"a\.png: uint16 picture in a folder of uint8 ones"):
        decode_ir(data, "a.png")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_kept_for_who_fuses(suffix: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), np.uint16)
    decoded = as_vi(decode(cv2.imencode(suffix, deep[:, :, ::-1])[1].tobytes(), "a"))
    assert np.array_equal(decoded, deep)
    assert np.array_equal(to_levels(to_tensor(decoded), np.uint16), deep)
    assert np.array_equal(as_vi(decode(encode_png(deep), "a")), deep)


def test_full_scale_is_one_at_both_depths() -> None:
    for dtype in (np.uint8, np.uint16):
        levels = np.array([[[0], [np.iinfo(dtype).max]]], dtype)
        assert to_tensor(levels).flatten().tolist() == [0, 1]
