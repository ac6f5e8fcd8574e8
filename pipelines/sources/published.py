"""Layouts of published data sets that the names of folders alone do not tell."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from degradations.catalogue import Modality
from pipelines.sources.names import IMAGE_SUFFIXES, Role, role_of
from pipelines.sources.pairing import (
    Found,
    Listed,
    Refused,
    SourcePair,
    folder_of,
    pair_files,
    pictures_of,
    place_of,
    together,
)
from pipelines.sources.source_paths import SourcePath

TARGETS = ("vi_enhanced", "ir_enhanced")
_FLIR_VIDEO_MAP = "rgb_to_thermal_vid_map.json"

# The suffixes of the authors' files (DSPFusion spec 3.1), and what they are called here.
_NATIVE_NAMES = {
    "vi": {
        "blur": "blur",
        "norm": "clean",
        "rain": "rain",
        "rn": "random_noise",
        "ll": "low_light",
        "oe": "over_exposure",
        "haze": "haze",
    },
    "ir": {"lc": "low_contrast", "norm": "clean", "rn": "random_noise", "sn": "stripe_noise"},
}

Peek = Callable[[SourcePath], int]
"""Number of channels that a picture's file has."""


def hybrid_folders(
    files: Sequence[Listed],
) -> tuple[dict[tuple[str, ...], list[Listed]], list[Listed]]:
    """The files of each folder in DSPFusion's own layout, and the others."""
    with_targets: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for file in files:
        if file.parts and file.parts[-1].lower() in TARGETS:
            with_targets[file.parts[:-1]].add(file.parts[-1].lower())
    hybrid: dict[tuple[str, ...], list[Listed]] = {}
    for folder, targets in with_targets.items():
        if len(targets) < len(TARGETS):
            raise ValueError(f"{'/'.join(folder)}: has {targets.pop()}/ but not its partner folder")
        hybrid[folder] = []
    rest: list[Listed] = []
    for file in files:
        there = hybrid.get(file.parts[:-1]) if file.parts else None
        (rest if there is None else there).append(file)
    return hybrid, rest


def hybrid_pairs(folder: tuple[str, ...], files: Sequence[Listed]) -> Found:
    """Targets pair by stem; every `NAME_SUFFIX` file is a native variant of the scene NAME."""
    by_name: dict[str, list[SourcePath]] = defaultdict(list)
    for file in files:
        by_name[file.parts[-1].lower()].append(file.path)
    missing = next((name for name in ("vi", "ir") if name not in by_name), None)
    if missing:
        raise ValueError(f"{'/'.join(folder)}: has targets, but not its partner folder {missing}/")
    pairs, refused = pair_files(by_name["vi_enhanced"], by_name["ir_enhanced"])
    natives: dict[str, dict[str, SourcePath]] = {pair.stem: {} for pair in pairs}
    for modality in ("vi", "ir"):
        pictures, bad = pictures_of(by_name[modality])
        refused += bad
        for path in pictures:
            reason = _take_native(natives, modality, path.stem, path)
            if reason:
                refused.append(Refused(path=str(path), reason=reason))
    place = place_of(files[0])
    rest = tuple(part for part in folder if role_of(part) == Role())
    return [
        replace(
            pair,
            split=place.split or "",
            sequence="/".join(rest),
            natives=tuple(sorted(natives[pair.stem].items())),
        )
        for pair in pairs
    ], refused


def _take_native(
    natives: dict[str, dict[str, SourcePath]], modality: str, stem: str, path: SourcePath
) -> str | None:
    """Put one file under its scene and member; return why not, if not."""
    scene, _, suffix = stem.rpartition("_")
    name = _NATIVE_NAMES[modality].get(suffix.lower())
    if name is None:
        known = ", ".join(_NATIVE_NAMES[modality])
        return f"its name ends in none of the {modality.upper()} suffixes {known}"
    if scene not in natives:
        return f"there is no pair of targets named {scene!r}"
    natives[scene][f"{modality}_{name}"] = path
    return None


def flir_video_pairs(files: Sequence[Listed], read: Callable[[str], bytes]) -> Found:
    """FLIR ADAS v2: its videos' frames are paired by a table of their names."""
    maps = [file for file in files if file.path.name == _FLIR_VIDEO_MAP]
    if not maps:
        return [], []
    names = json.loads(read(str(maps[0].path)))
    there = {file.path.name: file for file in files}
    pairs = []
    for vi, ir in sorted(names.items()):
        if vi in there and ir in there:
            split = place_of(there[vi]).split or "test"
            pairs.append(SourcePair(split, PurePosixPath(vi).stem, there[vi].path, there[ir].path))
    return pairs, []


def four_channel_pairs(files: Sequence[Listed], peek: Peek) -> list[SourcePair]:
    """MFNet: pictures of four channels, in folders whose first picture has them."""
    folders: dict[tuple[str, ...], list[Listed]] = defaultdict(list)
    for file in files:
        if file.path.suffix.lower() in IMAGE_SUFFIXES:
            folders[file.parts].append(file)
    pairs = []
    for some in folders.values():
        if peek(some[0].path) == 4:
            place = place_of(some[0])
            sequence = "/".join(place.rest)
            pairs += [
                SourcePair(
                    place.split or "", file.path.stem, file.path, file.path, sequence=sequence
                )
                for file in some
            ]
    return pairs


def restoration_pairs(files: Sequence[Listed], camera: Modality | None, lq: str | None) -> Found:
    """Clean pictures of one camera in `gt/`, and with the same name in `lq/` a degraded one of each.

    Raises ValueError where there are such folders and nothing says of which camera.
    """
    folders: dict[tuple[str | None, ...], dict[str, list[Listed]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for file in files:
        role = file.parts[-1].lower() if file.parts else ""
        if role in ("gt", "lq"):
            folders[file.parts[:-1]][role].append(file)
    found = [_clean_and_degraded(some["gt"], some["lq"], camera, lq) for some in folders.values()]
    return together(found)


def _clean_and_degraded(
    clean: Sequence[Listed], degraded: Sequence[Listed], camera: Modality | None, lq: str | None
) -> Found:
    if not clean:
        reason = f"{len(degraded)} degraded pictures without clean ones (gt/) beside them"
        return [], [Refused(path=folder_of(degraded[0]), reason=reason, pairs=len(degraded))]
    if camera is None:
        raise ValueError(f"{folder_of(clean[0])}: pictures of one camera; say which with --camera")
    if degraded and lq is None:
        raise ValueError(
            f"{folder_of(degraded[0])}: degraded pictures; say with --lq by what (low_light, rain, …)"
        )
    place = place_of(clean[0])
    sequence = tuple(part for part in place.rest if part.lower() != "gt")
    found, refused = pair_files([f.path for f in clean], [f.path for f in degraded])
    partner = {str(pair.vi): pair.ir for pair in found}
    pictures, bad = pictures_of([file.path for file in clean])
    pairs = []
    for path in pictures:
        other = partner.get(str(path))
        pairs.append(
            SourcePair(
                place.split or "",
                path.stem,
                path if camera == "vi" else None,
                path if camera == "ir" else None,
                natives=((f"{camera}_{lq}", other),) if other else (),
                sequence="/".join(sequence),
            )
        )
    lost = [item for item in refused if "/lq/" in item.path]
    return pairs, bad + lost
