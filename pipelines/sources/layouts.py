"""Where the pairs of a published data set lie: a closed list of layouts, found by folder names.

| layout | folders | data sets |
|---|---|---|
| hybrid | `VI/NAME_Blur.png`, `IR/NAME_LC.png`, targets `VI_enhanced/`, `IR_enhanced/` | DSPFusion |
| roadscene | `crop_HR_visible/`, `cropinfrared/` | RoadScene |
| plain | `vi/` (`vis/`, `visible/`) and `ir/` (`inf/`, `infrared/`) | MSRS, M3FD, TNO, KAIST, M3SVD |
| llvip | `visible/train/`, `infrared/train/`: a split below its camera | LLVIP |
| tno | a folder a scene, with one `VIS*` and one `IR*` picture | TNO as first published |

Case does not matter.  Splits are folders round a layout (`train/vi`), or below the camera (LLVIP).
A root may hold several data sets, in any of these layouts (`msrs/train/vi`, `llvip/visible/train`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from pipelines.sources.source_paths import SourcePath

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VI_FOLDERS = ("vi", "vis", "visible", "crop_hr_visible")
IR_FOLDERS = ("ir", "inf", "infrared", "cropinfrared")
TARGETS = ("vi_enhanced", "ir_enhanced")
NOT_A_PICTURE = "not an image file (by its extension)"
# In a root of data sets, a data set without splits and with such a name looks like a split.
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")

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


class Refused(BaseModel):
    """A file that is not part of a usable pair, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    reason: str


@dataclass(frozen=True)
class SourcePair:
    """Two files of one scene; `natives` are its degraded variants, by member ("vi_blur").

    `dataset` is empty where the root holds no more than one.
    """

    split: str
    stem: str
    vi: SourcePath
    ir: SourcePath
    natives: tuple[tuple[str, SourcePath], ...] = ()
    dataset: str = ""


Found = tuple[list[SourcePair], list[Refused]]


def find_pairs(root: SourcePath, *, split: str) -> Found:
    """Find the pairs of every data set and split below `root`.

    `split` names that of a data set without splits. Raises ValueError when the folders fit no layout,
    or fit two.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the folder that holds vi/ and ir/")
    found = _pairs_here(root, split)
    if found is None:
        found = _datasets(root, split) or _splits(root) or _scene_folders(root, split)
    if found is None:
        raise ValueError(
            f"{root}: holds neither vi/ and ir/, nor split folders (train/, val/) with them, nor data "
            "sets that do; the layouts that are known stand in pipelines/sources/layouts.py"
        )
    return found


def normalise_name(name: str) -> str:
    """Lower case, and a hyphen for what a scene id may not hold."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "scene"


def pair_by_stem(vi_folder: SourcePath, ir_folder: SourcePath, *, split: str = "") -> Found:
    """Pair two folders by file stem; files without a partner are refused by name."""
    vi_files, refused_vi = _images_by_stem(vi_folder)
    ir_files, refused_ir = _images_by_stem(ir_folder)
    refused = refused_vi + refused_ir
    for stem in sorted(vi_files.keys() ^ ir_files.keys()):
        path = vi_files.get(stem) or ir_files[stem]
        missing = "IR" if stem in vi_files else "VI"
        refused.append(Refused(path=str(path), reason=f"has no {missing} picture of the same name"))
    both = sorted(vi_files.keys() & ir_files.keys())
    return [SourcePair(split, stem, vi_files[stem], ir_files[stem]) for stem in both], refused


def _datasets(root: SourcePath, split: str) -> Found | None:
    """Several data sets; None when no folder in `root` has splits: it may be a split itself."""
    folders = [folder for folder in _folders_in(root) if not folder.name.startswith(".")]
    there = {folder: _pairs_here(folder, "") or _splits(folder) for folder in folders}
    if not any(pair.split for found in there.values() for pair in (found or ([], []))[0]):
        return None
    names: dict[str, SourcePath] = {}
    for folder in folders:
        found = there[folder] or _scene_folders(folder, "")
        if found is None and _holds_pictures(folder):
            raise ValueError(
                f"{folder}: holds pictures in none of the layouts of pipelines/sources/layouts.py, beside "
                "data sets that are in one; fix it or move it away"
            )
        first = names.setdefault(normalise_name(folder.name), folder)
        if first != folder:
            raise ValueError(f"{first} and {folder}: two data sets of one name; rename one")
        there[folder] = found and _named(folder, found, split)
    return _together(found for found in there.values() if found)


def _named(folder: SourcePath, found: Found, split: str) -> Found:
    """Pairs with the name of their data set, and with `split` where they have none."""
    pairs, refused = found
    if folder.name.lower() in _SPLITS and not all(pair.split for pair in pairs):
        raise ValueError(
            f"{folder}: a split beside data sets that have splits; move it into its data set"
        )
    name = normalise_name(folder.name)
    return [replace(pair, dataset=name, split=pair.split or split) for pair in pairs], refused


def _splits(root: SourcePath) -> Found | None:
    """Split folders round a layout."""
    below = [_pairs_here(folder, normalise_name(folder.name)) for folder in _folders_in(root)]
    found = [pairs for pairs in below if pairs is not None]
    return _together(found) if found else None


def _folders_in(root: SourcePath) -> list[SourcePath]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _holds_pictures(folder: SourcePath) -> bool:
    below = (folder, *(path for _, path in _folders_below(folder)))
    return any(path.suffix.lower() in IMAGE_SUFFIXES for each in below for path in each.iterdir())


def _pairs_here(folder: SourcePath, split: str) -> Found | None:
    children = {child.name.lower(): child for child in sorted(folder.iterdir()) if child.is_dir()}
    vi = _one_of(folder, children, VI_FOLDERS)
    ir = _one_of(folder, children, IR_FOLDERS)
    targets = [children[name] for name in TARGETS if name in children]
    if vi is None and ir is None and not targets:
        return None
    if vi is None or ir is None or len(targets) == 1:
        present = vi or ir or targets[0]
        raise ValueError(f"{folder}: has {present.name}/ but not its partner folder")
    if targets:
        return _hybrid_pairs(vi, ir, *targets, split=split)
    splits = _split_folders(vi, ir)
    if splits:
        return _together(pair_by_stem(a, b, split=normalise_name(a.name)) for a, b in splits)
    return pair_by_stem(vi, ir, split=split)


def _one_of(
    folder: SourcePath, children: dict[str, SourcePath], names: Sequence[str]
) -> SourcePath | None:
    present = [children[name] for name in names if name in children]
    if len(present) > 1:
        both = " and ".join(f"{child.name}/" for child in present)
        raise ValueError(f"{folder}: has {both}; move all but one of them away")
    return present[0] if present else None


def _split_folders(vi: SourcePath, ir: SourcePath) -> list[tuple[SourcePath, SourcePath]]:
    """LLVIP: `visible/train/` and `infrared/train/`; a split of one camera alone is an error."""
    below_vi, below_ir = (
        {child.name.lower(): child for child in sorted(camera.iterdir()) if child.is_dir()}
        for camera in (vi, ir)
    )
    if any(child.is_file() for child in vi.iterdir()):
        return []
    for name in sorted(below_vi.keys() ^ below_ir.keys()):
        present = below_vi.get(name) or below_ir[name]
        raise ValueError(f"{present}: the other camera has no such folder")
    return [(below_vi[name], below_ir[name]) for name in below_vi]


def _hybrid_pairs(
    vi: SourcePath, ir: SourcePath, vi_targets: SourcePath, ir_targets: SourcePath, *, split: str
) -> Found:
    """Targets pair by stem; every `NAME_SUFFIX` file is a native variant of the scene NAME."""
    pairs, refused = pair_by_stem(vi_targets, ir_targets, split=split)
    natives: dict[str, dict[str, SourcePath]] = {pair.stem: {} for pair in pairs}
    for modality, folder in (("vi", vi), ("ir", ir)):
        files, bad = _images_by_stem(folder)
        refused += bad
        for stem, path in files.items():
            reason = _take_native(natives, modality, stem, path)
            if reason:
                refused.append(Refused(path=str(path), reason=reason))
    return [
        SourcePair(
            pair.split, pair.stem, pair.vi, pair.ir, tuple(sorted(natives[pair.stem].items()))
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


def _scene_folders(root: SourcePath, split: str) -> Found | None:
    """TNO as first published: every folder with a `VIS*` or an `IR*` picture is a scene."""
    pairs, refused = [], []
    for parts, folder in _folders_below(root):
        vi, ir = list(_starting_with("vis", folder)), list(_starting_with("ir", folder))
        stem = "-".join(parts)
        if len(vi) == 1 and len(ir) == 1:
            pairs.append(SourcePair(split, stem, vi[0], ir[0]))
        elif vi and ir:
            reason = f"{len(vi)} VIS and {len(ir)} IR pictures in one scene folder; leave one each"
            refused.append(Refused(path=str(folder), reason=reason))
    return (pairs, refused) if pairs else None


def _folders_below(
    root: SourcePath, parts: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], SourcePath]]:
    for folder in _folders_in(root):
        names = (*parts, folder.name)
        yield names, folder
        yield from _folders_below(folder, names)


def _starting_with(prefix: str, folder: SourcePath) -> Iterator[SourcePath]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name.lower().startswith(prefix):
            yield path


def _images_by_stem(folder: SourcePath) -> tuple[dict[str, SourcePath], list[Refused]]:
    found: dict[str, SourcePath] = {}
    refused = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            refused.append(Refused(path=str(path), reason=NOT_A_PICTURE))
        elif path.stem in found:
            reason = f"second file of the stem {path.stem!r} beside {found[path.stem].name}"
            refused.append(Refused(path=str(path), reason=reason))
        else:
            found[path.stem] = path
    return found, refused


def _together(parts: Sequence[Found] | Iterator[Found]) -> Found:
    pairs: list[SourcePair] = []
    refused: list[Refused] = []
    for some, bad in parts:
        pairs += some
        refused += bad
    return pairs, refused
