"""Folders of any method's fused pictures beside their sources: found, checked, measured.

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.metrics import measurable, measure
from pipelines.sources.layouts import IMAGE_SUFFIXES
from pipelines.sources.pictures import as_vi, decode, to_tensor

_MOST_NAMED = 5


@dataclass(frozen=True)
class Triple:
    """Three files of one scene; `name` is the fused picture's file name."""

    name: str
    vi: Path
    ir: Path
    fused: Path


@dataclass(frozen=True)
class Found:
    """Complete triples in order of name, and what has no partner, a sentence each."""

    triples: tuple[Triple, ...]
    incomplete: tuple[str, ...]


def find_triples(vi: Path, ir: Path, fused: Path) -> Found:
    """Match three folders by file stem, whatever the extensions and the case.

    Raises ValueError for a folder that is missing or empty, and for two pictures of one stem.
    """
    folders = {"VI": vi, "IR": ir, "fused": fused}
    found = {name: pictures_by_stem(folder) for name, folder in folders.items()}
    triples, incomplete = [], []
    for stem in sorted(set().union(*found.values())):
        missing = [name for name, files in found.items() if stem not in files]
        if missing:
            there = next(files[stem] for files in found.values() if stem in files)
            incomplete.append(f"{there}: has no {' and no '.join(missing)} picture of that name")
            continue
        paths = [files[stem] for files in found.values()]
        triples.append(Triple(paths[2].name, *paths))
    return Found(tuple(triples), tuple(incomplete))


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by lower-case stem. Raises ValueError as `find_triples` does."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of pictures")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        other = files.setdefault(path.stem.lower(), path)
        if other != path:
            raise ValueError(f"{folder}: {other.name} and {path.name} have one name; keep one")
    if not files:
        raise ValueError(f"{folder}: no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return files


def check_complete(found: Found) -> None:
    """Raise ValueError, naming the first files, unless every picture has its partners."""
    if found.incomplete:
        raise ValueError(
            f"{len(found.incomplete)} pictures lack a partner: {_shown(found.incomplete)}; "
            "complete the folders, or say --partial to measure the others"
        )


def read_picture(path: Path) -> np.ndarray:
    """Read any 8-bit picture as uint8 H×W×3 RGB or H×W×1. Raises ValueError that names it."""
    image = decode(path.read_bytes(), str(path))
    return image[:, :, None] if image.ndim == 2 else as_vi(image)


def measure_triple(triple: Triple, names: Sequence[str]) -> dict[str, float]:
    """Measure one triple; what it is too small for is NaN.

    Raises ValueError, naming the files, when their sizes differ or one cannot be decoded.
    """
    pictures = [read_picture(path) for path in (triple.fused, triple.vi, triple.ir)]
    sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in pictures]
    if len(set(sizes)) != 1:
        raise ValueError(
            f"{triple.fused} is {sizes[0]}, but {triple.vi} is {sizes[1]} and {triple.ir} "
            f"{sizes[2]}; metrics need one size, and resizing would change them"
        )
    height, width = pictures[0].shape[:2]
    fused, vi, ir = (to_tensor(image) for image in pictures)
    values = measure(fused, vi, ir, measurable(height, width, names))
    return {name: float(values[name]) if name in values else math.nan for name in names}


def measure_triples(
    triples: Sequence[Triple], names: Sequence[str], *, num_threads: int
) -> Iterator[tuple[Triple, dict[str, float]]]:
    """Measure triples on several threads; yield them in their order."""
    with ThreadPoolExecutor(num_threads) as pool:
        values = pool.map(lambda triple: measure_triple(triple, names), triples)
        yield from zip(triples, values, strict=True)


def _shown(sentences: Sequence[str]) -> str:
    text = "; ".join(sentences[:_MOST_NAMED])
    more = len(sentences) - _MOST_NAMED
    return text + (f"; and {more} more" if more > 0 else "")
