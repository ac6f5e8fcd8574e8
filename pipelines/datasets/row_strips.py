"""A picture as zstd frames of a few rows each, so that a crop decodes only the rows it needs.

A skippable frame with the index, one frame with the `.npy` header, then one frame a strip. Readers
that know nothing of it see an ordinary `.npy.zst`.  H W pixels, C channels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa

# Part of a shard's address: raise it when the same picture comes to other bytes.
CODEC_VERSION = 1
# Fewer rows compress worse, more are decoded for nothing at both ends of a crop.
_STRIP_ROWS = 32
_MAGIC = 0x184D2A50  # zstd's first kind of skippable frame
_HEAD = struct.Struct("<II")
_SHAPE = struct.Struct("<IIII")  # rows a strip, H, W, C
_LONGEST_INDEX = 4096

ReadAt = Callable[[int, int], bytes]


def encode_strips(image: np.ndarray) -> bytes:
    """Encode uint8 H×W×C."""
    codec = pa.Codec("zstd", compression_level=1)
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": image.shape}
    np.lib.format.write_array_header_1_0(header, described)
    tops = range(0, image.shape[0], _STRIP_ROWS)
    parts = [header.getvalue(), *(image[top : top + _STRIP_ROWS].tobytes() for top in tops)]
    frames = [codec.compress(part, asbytes=True) for part in parts]
    index = _SHAPE.pack(_STRIP_ROWS, *image.shape)
    index += np.array([len(frame) for frame in frames], "<u4").tobytes()
    return b"".join([_HEAD.pack(_MAGIC, len(index)), index, *frames])


def _check_index(index: bytes, shape: tuple[int, int, int]) -> int:
    """Rows of a strip. Raises ValueError when the index is of another picture than `shape`."""
    if len(index) < _SHAPE.size:
        raise ValueError("its index of strips is cut short")
    strip_rows, *claimed = _SHAPE.unpack_from(index)
    if tuple(claimed) != shape:
        raise ValueError(f"its index of strips claims {tuple(claimed)}, the picture is {shape}")
    # A size for the header, and one a strip.
    expected = 1 + -(-shape[0] // strip_rows) if strip_rows else 0
    if not strip_rows or len(index) != _SHAPE.size + 4 * expected:
        raise ValueError(f"its index of strips does not fit strips of {strip_rows} rows")
    return int(strip_rows)


def decode_rows(
    read_at: ReadAt, rows: tuple[int, int], *, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Decode rows [first, end) of a picture, or return None when it has no strips.

    `read_at(offset, size)` reads its bytes, fewer at its end. Raises ValueError when its index is not
    one of a picture of `shape` H×W×C, before memory is taken for it.
    """
    start = read_at(0, _LONGEST_INDEX)
    if len(start) < _HEAD.size or _HEAD.unpack_from(start)[0] != _MAGIC:
        return None
    length = _HEAD.unpack_from(start)[1]
    index = start[_HEAD.size : _HEAD.size + length]
    if len(index) < length:
        index = read_at(_HEAD.size, length)
    height, width, channels = shape
    strip_rows = _check_index(index, shape)
    sizes = np.frombuffer(index, "<u4", offset=_SHAPE.size).astype(np.int64)
    ends = (_HEAD.size + length + np.cumsum(sizes)).tolist()  # of the header, and of every strip
    first, end = rows[0], min(rows[1], height)
    strips = range(first // strip_rows, -(-end // strip_rows))
    begin = ends[strips.start]
    data = pa.py_buffer(read_at(begin, ends[strips.stop] - begin))
    codec = pa.Codec("zstd")
    pixels = b"".join(
        codec.decompress(
            data.slice(ends[strip] - begin, ends[strip + 1] - ends[strip]),
            decompressed_size=(min((strip + 1) * strip_rows, height) - strip * strip_rows)
            * width
            * channels,
            asbytes=True,
        )
        for strip in strips
    )
    decoded = np.frombuffer(pixels, np.uint8).reshape(-1, width, channels)
    skipped = first - strips.start * strip_rows
    return decoded[skipped : skipped + end - first]
