"""A picture as one zstd frame of an `.npy`, in which each strip of rows can be decoded alone.

The frame's blocks are made strip by strip, as libzstd's threads make parts of a frame: none refers to
what lies before its strip. A skippable frame with the sizes of the strips follows. Readers that know
nothing of it see an ordinary `.npy.zst` of known size: `numpy.load(BytesIO(zstandard.decompress(data)))`.
H W pixels, C channels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import zstandard

# Part of a shard's address: raise it when the same picture comes to other bytes.
CODEC_VERSION = 2

# Fewer rows compress worse, more are decoded for nothing at both ends of a crop.
_STRIP_ROWS = 32
_INDEX_MAGIC = 0x184D2A50  # zstd's first kind of skippable frame
_HEAD = struct.Struct("<II")
_SHAPE = struct.Struct("<IIII")  # rows a strip, H, W, C
# Of a frame in one segment that tells its size in 4 bytes (RFC 8878, 3.1.1).
_FRAME = struct.Struct("<IBI")
_FRAME_MAGIC, _DESCRIPTOR = 0xFD2FB528, 0xA0
# What libzstd writes where it was not told the size: magic, descriptor, window.
_OWN_HEAD_BYTES = 6
_LAST_BLOCK = bytes([1, 0, 0])  # an empty one
# A thread flushes at the end of a strip, and begins the next without history, tables and last offsets;
# one that compresses in place would keep all three.
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(
    1, source_size=2**17, threads=1, overlap_log=1, write_content_size=False
)

ReadAt = Callable[[int, int], bytes]


def encode_strips(image: np.ndarray) -> bytes:
    """Encode uint8 H×W×C."""
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": image.shape}
    np.lib.format.write_array_header_1_0(header, described)
    tops = range(0, image.shape[0], _STRIP_ROWS)
    parts = [header.getvalue(), *(image[top : top + _STRIP_ROWS].tobytes() for top in tops)]
    blocks = _compress(parts)
    index = _SHAPE.pack(_STRIP_ROWS, *image.shape)
    index += np.array([len(block) for block in blocks[:-1]], "<u4").tobytes()
    frame = _FRAME.pack(_FRAME_MAGIC, _DESCRIPTOR, sum(map(len, parts)))
    return b"".join([frame, *blocks, _HEAD.pack(_INDEX_MAGIC, len(index)), index])


def _compress(parts: list[bytes]) -> list[bytes]:
    """The blocks of each part, and the empty one that ends the frame."""
    # The frame's own head cannot tell its size: libzstd would not use its threads for a small one.
    compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS).compressobj()
    blocks = [
        compressor.compress(part) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for part in parts
    ]
    return [blocks[0][_OWN_HEAD_BYTES:], *blocks[1:], compressor.flush()]


def _check_index(index: bytes, shape: tuple[int, int, int]) -> None:
    """Raise ValueError when the index is of another picture than `shape`."""
    if _SHAPE.unpack_from(index) != (_STRIP_ROWS, *shape):
        raise ValueError(
            f"its index of strips claims {_SHAPE.unpack_from(index)}, the picture is {shape} in "
            f"strips of {_STRIP_ROWS} rows"
        )


def decode_rows(
    read_at: ReadAt, num_bytes: int, rows: tuple[int, int], *, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Decode rows [first, end) of a picture, or return None when it has no strips.

    `read_at(offset, size)` reads its `num_bytes`, fewer at its end. Raises ValueError when its index is
    not one of a picture of `shape` H×W×C, before memory is taken for it.
    """
    height, width, channels = shape
    # Of the header, and of each strip.
    length = _SHAPE.size + 4 * (1 + -(-height // _STRIP_ROWS))
    tail = read_at(max(num_bytes - length - _HEAD.size, 0), length + _HEAD.size)
    if len(tail) < length + _HEAD.size or _HEAD.unpack_from(tail) != (_INDEX_MAGIC, length):
        return None
    _check_index(tail[_HEAD.size :], shape)
    sizes = np.frombuffer(tail, "<u4", offset=_HEAD.size + _SHAPE.size).astype(np.int64)
    ends = (_FRAME.size + np.cumsum(sizes)).tolist()
    first, end = rows[0], min(rows[1], height)
    strips = range(first // _STRIP_ROWS, -(-end // _STRIP_ROWS))
    begin = ends[strips.start]
    top, bottom = strips.start * _STRIP_ROWS, min(strips.stop * _STRIP_ROWS, height)
    num_pixels = (bottom - top) * width * channels
    # The strips' blocks are a frame of their own, with another head and end.
    head = _FRAME.pack(_FRAME_MAGIC, _DESCRIPTOR, num_pixels)
    frame = b"".join([head, read_at(begin, ends[strips.stop] - begin), _LAST_BLOCK])
    pixels = pa.Codec("zstd").decompress(frame, decompressed_size=num_pixels)
    decoded = np.frombuffer(pixels, np.uint8).reshape(-1, width, channels)
    return decoded[first - top : end - top]
