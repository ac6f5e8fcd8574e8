"""The codec, and the only place that knows BGR: files to arrays, arrays to files, tensors between.

Pictures are uint8, H×W×3 RGB (visible) or H×W×1 (infrared); tensors are B×C×H×W float32 in [0, 1].
Only who fuses takes 16 bits a channel, as uint16: full scale is 1, and the result has 16 bits, too.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

# Part of a shard's address: raise it when a file that was accepted comes to other pixels, or the same
# pixels to another PNG.
CODEC_VERSION = 1
# 16384 x 16384. A file of kilobytes can claim to be a picture of gigabytes.
MOST_PIXELS = 2**28


def decode_vi(
    data: bytes, name: str, *, deep: bool = False, most_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """Decode a visible picture to H×W×3 RGB; grey is replicated, EXIF rotation applied."""
    return as_vi(decode(data, name, deep=deep, most_pixels=most_pixels))


def decode_ir(
    data: bytes, name: str, *, deep: bool = False, most_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """Decode an infrared picture to H×W×1; equal channels are one, colour is refused."""
    return as_ir(decode(data, name, deep=deep, most_pixels=most_pixels), name)


def as_vi(image: np.ndarray) -> np.ndarray:
    """Turn what `decode` returns into H×W×3 RGB."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, ::-1])


def as_ir(image: np.ndarray, name: str) -> np.ndarray:
    """Turn what `decode` returns into H×W×1."""
    if image.ndim == 2:
        return image[:, :, None]
    # JPEG and palettes leave equal-channel grey off by a level or two; false colour is far off.
    largest = 8 * np.iinfo(image.dtype).max // 255
    if int(np.ptp(image.astype(np.int32), axis=2).max()) > largest:
        raise ValueError(f"{name}: infrared picture is in (false) colour; store it as grey")
    return np.ascontiguousarray(image[:, :, 1:2])


def decode(
    data: bytes, name: str, *, deep: bool = False, most_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """Decode a picture by its bytes, whatever its extension: uint8 H×W or H×W×3 BGR.

    Palettes become colours, alpha goes, EXIF rotation is applied.  A truncated file is refused, and
    so is, unless `deep`, 16 bits a channel (uint16): the way to 8 bits (a fixed radiometric window,
    not one picture's own range) is known to the owner of the camera, and a guess here would change
    every contrast.  One that claims more than `most_pixels` is refused before memory is taken for it
    (PNG and JPEG; of other formats OpenCV itself refuses more than 2^30).
    """
    claimed = _claimed_pixels(data)
    if claimed > most_pixels:
        raise ValueError(
            f"{name}: claims {claimed} pixels, {most_pixels} are the most; cut it into parts first"
        )
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise ValueError(f"{name}: not an image that can be decoded, or cut short")
    if image.dtype != np.uint8 and not (deep and image.dtype == np.uint16):
        raise ValueError(
            f"{name}: {image.dtype} picture; convert it to 8 bits a channel first, "
            "with one window for all pictures of the camera"
        )
    return image


_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers whose segment holds a size


def _claimed_pixels(data: bytes) -> int:
    """Height times width by the header of a PNG or JPEG; 0 where there is none to be read."""
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width * height
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height * width
        # Fill bytes may stand before a marker.
        at += 1 if data[at + 1] == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0


def check_sizes(vi: np.ndarray, ir: np.ndarray, vi_uri: str) -> None:
    """Raise ValueError, naming the visible file, when the pictures of a pair differ in size."""
    if vi.shape[:2] != ir.shape[:2]:
        raise ValueError(
            f"{vi_uri}: VI is {vi.shape[1]}x{vi.shape[0]} but IR is {ir.shape[1]}x{ir.shape[0]}; "
            "register the pair to one size first"
        )


def perceptual_hash(image: np.ndarray) -> str:
    """Hash a picture (as `decode` returns it) so that near copies differ in few of 64 bits."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:8, :8].ravel()
    signs = lowest > np.median(lowest)
    return np.packbits(signs).tobytes().hex()


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 or uint16 H×W×3 RGB or H×W×1 as PNG."""
    # No compression parameter: OpenCV 5's default is 1.8 times faster than level 1 (platform.md 4).
    done, data = cv2.imencode(".png", image[:, :, ::-1] if image.shape[2] == 3 else image)
    assert done
    return data.tobytes()


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn uint8 or uint16 H×W×C into float32 1×C×H×W in [0, 1]."""
    levels = torch.from_numpy(image.astype(np.float32))
    return levels.permute(2, 0, 1)[None] / np.iinfo(image.dtype).max  # 1 C H W


def to_uint8(picture: Tensor) -> np.ndarray:
    """Turn 1×C×H×W in [0, 1] into uint8 H×W×C; values outside are clipped."""
    return to_levels(picture, np.uint8)


def to_levels(picture: Tensor, dtype: DTypeLike) -> np.ndarray:
    """Turn 1×C×H×W in [0, 1] into uint8 or uint16 H×W×C; values outside are clipped."""
    largest = np.iinfo(np.dtype(dtype)).max
    levels = (picture[0].to(torch.float64) * largest).round().clamp(0, largest)  # C H W
    return levels.permute(1, 2, 0).contiguous().numpy().astype(dtype)  # H W C
