"""How the pictures of a shard are stored, H×W×C: as zstd arrays in strips of rows, or as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipelines.datasets.shards.row_strips import encode_strips
from pipelines.sources.pictures import decode_ir, decode_vi, encode_png

CODECS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "png": ("png", encode_png),
    "strips": ("npy.zst", encode_strips),
}


def decode_stored(data: bytes, field: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a picture of H×W×C; whatever claims to be more is refused before memory is taken for it."""
    height, width, channels = shape
    if field.endswith(".npy.zst"):
        most = height * width * channels + np.lib.format.BUFFER_SIZE // 16  # pixels, and a header
        raw = pa.input_stream(pa.BufferReader(data), compression="zstd").read(most)
        stream = io.BytesIO(raw)
        np.lib.format.read_magic(stream)
        described = np.lib.format.read_array_header_1_0(stream)
        if described != (shape, False, np.dtype(np.uint8)):
            raise ValueError(f"it holds {described}")
        return np.load(io.BytesIO(raw), allow_pickle=False)
    decode = decode_vi if field.startswith("vi") else decode_ir
    image = decode(data, field, most_pixels=height * width)
    if image.shape != shape:
        raise ValueError(f"it holds {image.shape}")
    return image
