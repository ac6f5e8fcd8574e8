"""Damaged and hostile picture files: what OpenCV decodes to grey rubble, or dies of, is refused here.

OpenCV neither says how large a picture will be before it takes the memory, nor returns what its codecs
warn of. Pillow reads the header; it checks a PNG's sums and decodes a TIFF. libjpeg's warnings come
from simplejpeg, at an eighth of the size, which costs a quarter of the decoding.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import simplejpeg
from PIL import Image

# 8192 x 8192. A file of kilobytes can claim to be a picture of gigabytes, and an honest one of 16384 a
# side takes gigabytes in everything that is done with it.
MOST_PIXELS = 2**26
# By their bytes; file names say less.
READ_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP")
_FLIR = b"FLIR\0"
_CANNOT = "not an image that can be decoded, or cut short"


class TooLargeError(ValueError):
    """A picture claims more pixels than are read."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture. `mode` is Pillow's: "L", "RGB", "RGBA", "I;16", "F", …

    A `radiometric` JPEG (FLIR's) has the camera's temperatures beside a rendering of them.
    """

    format: str
    width: int
    height: int
    mode: str
    radiometric: bool = False


def read_header(data: bytes, name: str, *, most_pixels: int = MOST_PIXELS) -> Header:
    """Read a picture's header, and no pixel.

    Raises ValueError for what is no picture that we read, and for one of more than `most_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            parts = (part for _, part in getattr(image, "applist", ()))
            radiometric = any(part.startswith(_FLIR) for part in parts)
            found = Header(image.format or "", *image.size, image.mode, radiometric)
    except Image.DecompressionBombError as error:
        claimed = int(re.findall(r"\d+", str(error))[0])  # Pillow has a limit of its own
        raise TooLargeError(_too_large(name, claimed, most_pixels)) from error
    except Exception as error:  # plugins raise whatever their parsing meets
        raise ValueError(f"{name}: {_CANNOT}") from error
    if found.format not in READ_FORMATS:
        known = ", ".join(READ_FORMATS)
        raise ValueError(f"{name}: a {found.format} file; {known} are read, convert it to PNG")
    if found.width * found.height > most_pixels:
        raise TooLargeError(_too_large(name, found.width * found.height, most_pixels))
    return found


def _too_large(name: str, claimed: int, most: int) -> str:
    return f"{name}: claims {claimed} pixels, {most} are the most; cut it into parts first"


def check_whole(data: bytes, header: Header, name: str) -> None:
    """Raise ValueError for a file whose codec warns of damage (its size is checked before)."""
    try:
        if header.format in ("JPEG", "MPO"):
            space = "CMYK" if header.mode == "CMYK" else "GRAY"
            simplejpeg.decode_jpeg(
                data, space, min_height=1, min_width=1, min_factor=8, strict=True
            )
        elif header.format in ("PNG", "TIFF"):
            with Image.open(io.BytesIO(data)) as image:
                image.verify() if header.format == "PNG" else image.load()
    except Exception as error:  # as above; SyntaxError for a PNG's wrong sum
        raise ValueError(f"{name}: {_CANNOT} ({' '.join(str(error).split())})") from error
