"""Files that claim too much or that a codec warns of: each is refused by name, for its reason."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.checks.damage import MOST_PIXELS
from pipelines.sources.pictures import decode_source


def picture() -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(rough, (80, 60))


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, picture())[1].tobytes()


def pillow_tiff(compression: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "TIFF", compression=compression)
    return stream.getvalue()


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def unknown_compression() -> bytes:
    data = pillow_tiff("tiff_lzw")
    return with_bytes(data, data.index(struct.pack("<HHI", 259, 3, 1)) + 8, struct.pack("<H", 4242))


def idat_that_claims(length: int) -> bytes:
    data = encoded(".png")
    return with_bytes(data, data.index(b"IDAT") - 4, struct.pack(">I", length))


def without_tables() -> bytes:
    data = encoded(".jpg")
    while (at := data.find(b"\xff\xdb")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    return data


GARBAGE = np.random.default_rng(1).integers(0, 256, 300, np.uint8).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        with_bytes(encoded(".jpg"), 900, GARBAGE),
        without_tables(),
        with_bytes(pillow_tiff("tiff_lzw"), 200, GARBAGE),
        with_bytes(pillow_tiff("tiff_adobe_deflate"), 100, bytes(40)),
        unknown_compression(),
        with_bytes(encoded(".png"), 200, b"x"),
        idat_that_claims(0xFFFFFFF0),
        idat_that_claims(0x7FFFFFF0),
    ],
    ids=["jpeg", "tables", "lzw", "deflate", "compression", "crc", "4 GB", "2 GB"],
)
def test_what_a_codec_warns_of_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^night\.png: not an image that can be decoded, or cut"):
        decode_source(data, "night.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_what_is_whole_is_read(suffix: str) -> None:
    assert decode_source(encoded(suffix), "x").shape == (60, 80, 3)


@pytest.mark.parametrize("suffix", [".gif", ".ppm", ".jp2", ".avif"])
def test_other_formats_are_named(suffix: str) -> None:
    with pytest.raises(ValueError, match=r"x\.png: a \w+ file; PNG, JPEG, .* convert it to PNG"):
        decode_source(encoded(suffix), "x.png")


@pytest.mark.parametrize("side", [9000, 16384, 60000])
def test_the_header_is_believed_before_memory_is_taken(side: int) -> None:
    bitmap = with_bytes(encoded(".bmp"), 18, struct.pack("<ii", side, side))
    message = rf"x: claims {side * side} pixels, {MOST_PIXELS} are the most"
    with pytest.raises(ValueError, match=message):
        decode_source(bitmap, "x")


def test_whatever_the_codec_raises_names_the_picture() -> None:
    with pytest.raises(ValueError, match=r"^a/b: c\.png: not an image"):
        decode_source(b"", "a/b: c.png")
