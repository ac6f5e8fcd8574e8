"""The codec, and the only place that knows BGR: files to arrays, arrays to files, tensors between.

Pictures are uint8, H×W×3 RGB (visible) or H×W×1 (infrared); tensors are B×C×H×W float32 in [0, 1].
More bits come down to 8 by a folder's window (`pipelines.checks.depth`). Only who fuses keeps 16, as
uint16: full scale is 1, and the result has 16 bits, too.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from pipelines.checks.damage import MOST_PIXELS, check_whole, read_header
from pipelines.checks.depth import apply_window

# Part of a shard's address: raise it when a file that was accepted comes to other pixels, or the same
# pixels to another PNG.
CODEC_VERSION = 1
_JPEG_QUALITY = 95
_PNG_DEPTH_AT = 24  # signature, and the header's length, type, width and height
_DEPTHS = (np.uint8, np.uint16, np.float32)
# What OpenCV makes of a picture that holds both cameras: three channels visible, the fourth infrared.
BOTH_CAMERAS = 4


def decode_vi(data: bytes, name: str, *, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode a visible picture of 8 bits to H×W×3 RGB; grey is replicated, EXIF rotation applied."""
    return as_vi(apply_window(decode(data, name, most_pixels=most_pixels), None, name))


def decode_ir(data: bytes, name: str, *, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode an infrared picture of 8 bits to H×W×1; equal channels are one, colour is refused."""
    return as_ir(apply_window(decode(data, name, most_pixels=most_pixels), None, name), name)


def as_vi(image: np.ndarray) -> np.ndarray:
    """Turn what `decode` returns into H×W×3 RGB."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1])


def as_ir(image: np.ndarray, name: str) -> np.ndarray:
    """Turn what `decode` returns into H×W×1; of a picture of both cameras, the fourth channel."""
    if image.ndim == 2:
        return image[:, :, None]
    if image.shape[2] == BOTH_CAMERAS:
        return np.ascontiguousarray(image[:, :, 3:])
    # JPEG and palettes leave equal-channel grey off by a level or two; false colour is far off.
    blue, green, red = cv2.split(image)
    spread = cv2.subtract(
        cv2.max(cv2.max(blue, green), red), cv2.min(cv2.min(blue, green), red)
    )  # H W
    largest = 8 * np.iinfo(image.dtype).max // 255
    if int(spread.max()) > largest:
        raise ValueError(f"{name}: infrared picture is in (false) colour; store it as grey")
    return green[:, :, None]


def decode(data: bytes, name: str, *, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode a picture by its bytes, whatever its extension, as it is stored: H×W, or H×W×3 BGR.

    Its levels are uint8, uint16 or float32. Palettes become colours, alpha goes, EXIF rotation is
    applied. Raises ValueError, naming the picture, whatever the codec meets; one that claims more than
    `most_pixels` is refused before memory is taken for it.
    """
    read_header(data, name, most_pixels=most_pixels)
    return _decoded(data, name, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)


def decode_source(data: bytes, name: str, *, both: bool = False) -> np.ndarray:
    """Decode a picture that nobody checked before: what its codec warns of is refused, too.

    With `both` it holds both cameras: H×W×4, blue, green, red and infrared.
    """
    header = read_header(data, name)
    check_whole(data, header, name)
    if not both:
        return _decoded(data, name, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    return decode_both(data, name)


def levels_of(data: bytes, name: str) -> np.ndarray:
    """A picture as it is stored, for its depth and levels; a pixel for one that can have but 8 bits.

    Raises ValueError as `decode_source` does.
    """
    header = read_header(data, name)
    if header.format not in ("PNG", "TIFF") or (
        data[_PNG_DEPTH_AT] <= 8 and header.format == "PNG"
    ):
        return np.zeros((1, 1), np.uint8)
    return decode_source(data, name)


def decode_both(data: bytes, name: str) -> np.ndarray:
    """Decode a picture that holds both cameras to H×W×4: blue, green, red and infrared."""
    image = _decoded(data, name, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != BOTH_CAMERAS:
        raise ValueError(f"{name}: has not the four channels (RGB, infrared) of both cameras")
    return image


def _decoded(data: bytes, name: str, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{name}: cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError(f"{name}: not an image that can be decoded, or cut short")
    if image.dtype not in _DEPTHS:
        raise ValueError(f"{name}: {image.dtype} levels; store it as uint8, uint16 or float32")
    return image


def check_sizes(vi: np.ndarray, ir: np.ndarray, vi_uri: str) -> None:
    """Raise ValueError, naming the visible file, when the pictures of a pair differ in size."""
    if vi.shape[:2] != ir.shape[:2]:
        raise ValueError(
            f"{vi_uri}: VI is {vi.shape[1]}x{vi.shape[0]} but IR is {ir.shape[1]}x{ir.shape[0]}; "
            "register the pair to one size first"
        )


def perceptual_hash(image: np.ndarray) -> str:
    """Hash a picture (as `decode` returns it) so that near copies differ in few of 64 bits."""
    single = image.ndim == 2 or image.shape[2] == 1
    grey = image if single else cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2GRAY)
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


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode uint8 H×W×3 RGB or H×W×1 as JPEG of high quality."""
    levels = image[:, :, ::-1] if image.shape[2] == 3 else image
    done, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return data.tobytes()


def grey_of(image: np.ndarray) -> np.ndarray:
    """H×W of uint8 H×W×3 RGB or H×W×1."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """The uint8 picture of a uint8 or uint16 one."""
    return image if image.dtype == np.uint8 else (image // 257).astype(np.uint8)


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
