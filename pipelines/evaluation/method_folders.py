"""Folders of any method's fused pictures beside their sources: found, checked, measured.

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from degradations.catalogue import Modality
from models.metrics import measurable, measure
from pipelines.checks.depth import FULL_SCALE, Window, WindowRule, apply_window, find_windows
from pipelines.sources.names import IMAGE_SUFFIXES, same_name
from pipelines.sources.pairing import pictures_of, visible
from pipelines.sources.pictures import as_ir, as_vi, decode_source, levels_of, to_tensor
from pipelines.store.names import first_few

_MOST_NAMED = 5


@dataclass(frozen=True)
class Triple:
    """Three files of one scene; `name` is the fused picture's file name."""

    name: str
    vi: Path
    ir: Path
    fused: Path
    vi_window: Window | None = None
    ir_window: Window | None = None

    def described(self) -> list[str]:
        """A sentence for each camera that has a window."""
        windows = {"vi": self.vi_window, "ir": self.ir_window}
        return [window.described(camera) for camera, window in windows.items() if window]


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
    triples, incomplete = [], [text for folder in folders.values() for text in _unread(folder)]
    for stem in sorted(set().union(*found.values())):
        missing = [name for name, files in found.items() if stem not in files]
        if missing:
            there = next(files[stem] for files in found.values() if stem in files)
            incomplete.append(f"{there}: has no {' and no '.join(missing)} picture of that name")
            continue
        first, second, third = (files[stem] for files in found.values())
        triples.append(Triple(third.name, first, second, third))
    return Found(tuple(triples), tuple(incomplete))


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by `same_name` of their stems. Raises ValueError as `find_triples` does."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of pictures")
    files: dict[str, Path] = {}
    for path in map(Path, map(str, pictures_of(visible(folder))[0])):
        other = files.setdefault(same_name(path.stem), path)
        if other != path:
            raise ValueError(f"{folder}: {other.name} and {path.name} have one name; keep one")
    if not files:
        raise ValueError(f"{folder}: no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return files


def _unread(folder: Path) -> list[str]:
    refused = pictures_of([path for path in visible(folder) if path.is_file()])[1]
    return [f"{item.path}: {item.reason}" for item in refused if item.pairs]


def check_complete(found: Found) -> None:
    """Raise ValueError, naming the first files, unless every picture has its partners."""
    if found.incomplete:
        shown = first_few(found.incomplete, most=_MOST_NAMED, separator="; ", last="; and ")
        raise ValueError(
            f"{len(found.incomplete)} pictures lack a partner: {shown}; "
            "complete the folders, or say --partial to measure the others"
        )


def with_windows(found: Found, rules: Mapping[str, WindowRule | None]) -> Found:
    """Triples with the window of each camera whose folder has more than 8 bits, by rule or measured."""
    triples = found.triples
    uris = {"vi": [str(each.vi) for each in triples], "ir": [str(each.ir) for each in triples]}
    windows = find_windows(uris, lambda uri: levels_of(Path(uri).read_bytes(), uri), rules)
    vi, ir = windows["vi_window"], windows["ir_window"]
    windowed = (replace(each, vi_window=vi, ir_window=ir) for each in triples)
    return replace(found, triples=tuple(windowed))


def _stored(uri: str) -> np.ndarray:
    return decode_source(Path(uri).read_bytes(), uri)


def read_picture(path: Path) -> np.ndarray:
    """Read a fused picture as uint8 H×W×3 RGB or H×W×1; of 16 bits full scale is white.

    Raises ValueError that names it.
    """
    image = _stored(str(path))
    if image.dtype == np.uint16:
        image = apply_window(image, FULL_SCALE, str(path))
    image = apply_window(image, None, str(path))
    return image[:, :, None] if image.ndim == 2 else as_vi(image)


def read_source(path: Path, camera: Modality, window: Window | None) -> np.ndarray:
    """Read a camera's picture as uint8 H×W×3 RGB or H×W×1, through the window of its folder.

    Raises ValueError that names it.
    """
    image = apply_window(_stored(str(path)), window, str(path))
    if camera == "ir":
        return as_ir(image, str(path))
    return image[:, :, None] if image.ndim == 2 else as_vi(image)


def measure_triple(triple: Triple, names: Sequence[str]) -> dict[str, float]:
    """Measure one triple; what it is too small for is NaN.

    Raises ValueError, naming the files, when their sizes differ or one cannot be decoded.
    """
    pictures = [
        read_picture(triple.fused),
        read_source(triple.vi, "vi", triple.vi_window),
        read_source(triple.ir, "ir", triple.ir_window),
    ]
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
) -> Iterator[tuple[Triple, dict[str, float] | ValueError]]:
    """Measure triples on several threads; yield them in their order, or why one cannot be measured."""

    def measured(triple: Triple) -> dict[str, float] | ValueError:
        try:
            return measure_triple(triple, names)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(num_threads) as pool:
        yield from zip(triples, pool.map(measured, triples), strict=True)
