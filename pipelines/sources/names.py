"""What the names of folders and files say: camera, split, junk, and a scene's id.

Lists are closed: a folder that is in none of them is part of a scene's name, never a split or a camera.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from degradations.catalogue import Modality

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# Pictures, too, which are not read: they are counted as lost, unlike notes and labels.
UNREAD_SUFFIXES = frozenset([
    ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".jp2", ".j2k", ".jpf", ".jxl", ".avif", ".heic", ".heif",
    ".exr", ".hdr", ".pfm", ".ras", ".npy", ".dng", ".cr2", ".nef", ".arw", ".fff", ".seq", ".raw",
])  # fmt: skip
PICTURE_SUFFIXES = IMAGE_SUFFIXES | UNREAD_SUFFIXES
CAMERAS: tuple[Modality, Modality] = ("vi", "ir")
# What systems and tools leave behind.
_JUNK = frozenset(
    ["thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "lost+found"]
)

_VI_WORDS = frozenset(
    ["vi", "vis", "visible", "visual", "optical", "eo", "rgb", "color", "colour", "crophrvisible"]
)
_IR_WORDS = frozenset([
    "ir", "inf", "infrared", "infra", "thermal", "therm", "lwir", "mwir", "swir", "nir", "tir", "fir",
    "cropinfrared",
])  # fmt: skip
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "testingset", "newtest"), "test"),
}
_KNOWN = _VI_WORDS | _IR_WORDS | _SPLIT_WORDS.keys()
_LIST_WORDS = frozenset(
    ["align", "aligned", "list", "files", "split", "images", "names", "set", "ids"]
)
# Words that may stand beside a camera's or a split's in a folder's name, and alone mean nothing.
_NEUTRAL = frozenset([
    "image", "images", "img", "imgs", "jpegimages", "picture", "pictures", "frame", "frames", "data",
    "dataset", "video", "videos", "camera", "cam", "crop", "cropped", "hr", "8", "16", "8bit", "16bit",
    "bit", "raw", "aligned", "registered", "light", "band", "source", "sources",
])  # fmt: skip
# DroneVehicle's names; HR and 8 bits are taken where a camera has two folders.
_GLUED = {
    f"{split}img{tail}": (camera, split)
    for split in ("train", "val", "test")
    for tail, camera in (("", "vi"), ("r", "ir"))
}
_VI_AFFIX = r"vi|vis|visible|rgb|color|colour|v"
_IR_AFFIX = r"ir|inf|infrared|thermal|th|t|tir|lwir|nir|fir|i|previewdata"
_AFFIXES: dict[Modality, re.Pattern[str]] = {
    camera: re.compile(
        rf"(?:(?:{words})(?:[_ -]+|$)(?P<after>.*)|(?P<before>.+?)[_ -]+(?:{words}))", re.IGNORECASE
    )
    for camera, words in zip(CAMERAS, (_VI_AFFIX, _IR_AFFIX), strict=True)
}
# LasHeR (v000001, i000001) and RGBT234 (00001v, 00001i): in a camera's folder only.
_LETTERS: dict[Modality, re.Pattern[str]] = {
    camera: re.compile(rf"(?:{letter}(?P<after>\d+)|(?P<before>\d+){letter})", re.IGNORECASE)
    for camera, letter in zip(CAMERAS, ("v", "[it]"), strict=True)
}


class Role(NamedTuple):
    """What a folder's name says: a camera, a split, both, or neither."""

    camera: Modality | None = None
    split: str | None = None
    neutral: bool = False


def is_junk(name: str) -> bool:
    """Whether a file or folder is passed over without a word: hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _JUNK


@lru_cache(maxsize=2**16)
def role_of(folder: str) -> Role:
    """What a folder's name says of the pictures below it."""
    lower = folder.lower()
    if lower in _GLUED:
        camera, split = _GLUED[lower]
        return Role("vi" if camera == "vi" else "ir", split)
    words = [part for word in _words(lower) for part in _parts(word)]
    whole = "".join(words)
    words = [whole] if whole in _KNOWN else words
    rest = [word for word in words if word not in _NEUTRAL]
    vi, ir = (any(word in known for word in rest) for known in (_VI_WORDS, _IR_WORDS))
    splits = {_SPLIT_WORDS[word] for word in rest if word in _SPLIT_WORDS}
    # A number alone is a sequence's.
    numbered = not rest and any(word.isdigit() for word in words)
    if (vi and ir) or len(splits) > 1 or numbered or any(word not in _KNOWN for word in rest):
        return Role()
    found: Modality | None = "vi" if vi else "ir" if ir else None
    return Role(found, next(iter(splits), None), neutral=not rest)


def _words(lower: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", lower) if word]


def _parts(word: str) -> list[str]:
    """The two words of "rgbimages", where both are known; else the one."""
    if word not in _KNOWN and word not in _NEUTRAL:
        for end in range(2, len(word)):
            if word[:end] in _KNOWN and word[end:] in _NEUTRAL | _KNOWN:
                return [word[:end], word[end:]]
    return [word]


def split_of(name: str) -> str | None:
    """The split that a list's file name names, "train" of "align_train.txt"; None where it has others."""
    words = _words(PurePosixPath(name).stem.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    plain = all(word in _SPLIT_WORDS or word in _LIST_WORDS for word in words)
    return found.pop() if len(found) == 1 and plain else None


def camera_of_stem(stem: str) -> tuple[Modality, str] | None:
    """Camera and remaining stem of "003_ir" or "VIS_12"; None where the name says nothing."""
    for camera in _AFFIXES:
        rest = _without(_AFFIXES[camera], stem)
        if rest is not None:
            return camera, rest
    return None


def neutral_stem(stem: str, camera: Modality) -> str:
    """A stem in a camera's folder without what marks the camera: "v000012" and "12_rgb" lose it."""
    for pattern in (_AFFIXES[camera], _LETTERS[camera]):
        rest = _without(pattern, stem)
        if rest:
            return rest
    return stem


def _without(pattern: re.Pattern[str], stem: str) -> str | None:
    found = pattern.fullmatch(stem)
    return found and (found["after"] if found["after"] is not None else found["before"])


def same_name(name: str) -> str:
    """What two names have in common that differ in case, or in how accents are encoded."""
    return composed(name).casefold()


def composed(name: str) -> str:
    """A name with its accents composed: macOS stores them apart."""
    return unicodedata.normalize("NFC", name)


def normalise_name(name: str) -> str:
    """Lower case, and a hyphen for what a scene id may not hold.

    Names that lose letters get eight digits of their digest, so that two of them stay two.
    """
    lower = composed(name).lower()
    plain = re.sub(r"[^a-z0-9_-]+", "-", lower).strip("-")
    if any(letter.isalnum() and not letter.isascii() for letter in lower):
        digest = hashlib.sha256(lower.encode()).hexdigest()[:8]
        return f"{plain}-{digest}" if plain else digest
    return plain or "scene"
