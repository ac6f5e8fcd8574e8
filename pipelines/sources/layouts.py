"""Which files of a published data set are pairs: told by the names of folders, and of files.

A picture's place is read from its folders, in any order: one names its camera (`vi`, `Visible`, `rgb`,
`thermal`, `FIR`, `crop_HR_visible`, …), one perhaps its split (`train`, `NewTest`, …), and the rest its
sequence, which becomes part of the scene's name. Pictures of two cameras that agree in all but the camera
are a pair. That reads MSRS, LLVIP, RoadScene, TNO, M3FD, M3SVD, FMB, KAIST, CVC-14, DroneVehicle, LasHeR,
RGBT234 and FLIR as they are unpacked, a folder in a folder included. Besides:

| layout | told by | data sets |
|---|---|---|
| hybrid | `VI/NAME_Blur.png`, `IR/NAME_LC.png`, targets `VI_enhanced/`, `IR_enhanced/` | DSPFusion |
| one folder | `003_vis.png`, `003_ir.png`; or one `VIS*` and one `IR*` | FLIR aligned, first TNO |
| four channels | RGB and infrared in one picture, in a folder without a camera | MFNet |
| lists | `meta/train.txt`, `meta/val.txt`: stems of each split | M3FD of TarDAL, MFNet |
| restoration | `lq/` and `gt/`, or `gt/` alone, of one camera | LOL, GoPro, … |

A root may hold several data sets, each in a folder of its own. `Layout` says what names cannot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from degradations.catalogue import Modality
from pipelines.sources.names import (
    PICTURE_SUFFIXES,
    camera_of_stem,
    neutral_stem,
    normalise_name,
    role_of,
)
from pipelines.sources.pairing import (
    Found,
    Listed,
    Refused,
    SourcePair,
    folder_of,
    pair_by_patterns,
    pair_by_table,
    pair_files,
    place_of,
    together,
    walk,
)
from pipelines.sources.published import (
    Peek,
    flir_video_pairs,
    four_channel_pairs,
    hybrid_folders,
    hybrid_pairs,
    restoration_pairs,
)
from pipelines.sources.source_paths import SourcePath
from pipelines.sources.splits import held_out, lists_in, split_by_lists

# Data sets whose folders stand side by side without splits; others of that shape are sequences.
_DATASETS = (
    "msrs", "llvip", "roadscene", "tno", "m3fd", "m3svd", "fmb", "kaist", "cvc", "dronevehicle",
    "lasher", "rgbt", "flir", "mfnet",
)  # fmt: skip
_CONDITIONS = frozenset([
    "day", "night", "dawn", "dusk", "morning", "evening", "daytime", "nighttime", "campus", "road",
])  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a person says of a folder, where its names do not.

    `vi` and `ir` are patterns of names from the root, `pairs` is a CSV table and its name, `split_lists`
    are texts with a picture a line, by split. `split` is that of a data set without splits, and `hold_out`
    the share of one without a val split that becomes it. `camera` is that of a restoration set, `lq` the
    degradation in it.
    """

    split: str = "train"
    hold_out: float = 0.0
    vi: str | None = None
    ir: str | None = None
    pairs: tuple[str, str] | None = None
    split_lists: Mapping[str, str] = field(default_factory=dict)
    camera: Modality | None = None
    lq: str | None = None


def find_pairs(
    root: SourcePath, layout: Layout, *, read: Callable[[str], bytes], peek: Peek
) -> Found:
    """Find the pairs of every data set and split below `root`; every other picture is named, too.

    `read` fetches a file, and `peek` counts a picture's channels, where names say too little. Raises
    ValueError when there is no pair, or folders contradict each other.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the folder that holds vi/ and ir/")
    files = list(walk(root))
    if layout.pairs:
        pairs, refused = pair_by_table(files, *layout.pairs)
        pairs = _placed(pairs, files)
    elif layout.vi and layout.ir:
        pairs, refused = pair_by_patterns(files, layout.vi, layout.ir)
        pairs = _placed(pairs, files)
    else:
        pairs, refused = _by_names(root, files, layout, read, peek)
    used = {str(path) for pair in pairs for path in pair.files()}
    refused += _left_out(files, used | {item.path for item in refused})
    lists = layout.split_lists or lists_in(files, read)
    pairs, unlisted = split_by_lists(pairs, lists, given=bool(layout.split_lists))
    pairs = [replace(pair, split=pair.split or layout.split) for pair in pairs]
    return held_out(pairs, layout.hold_out), refused + unlisted


def _placed(pairs: Sequence[SourcePair], files: Sequence[Listed]) -> list[SourcePair]:
    """Pairs with the split and the sequence that their first file's folders name."""
    places = {str(file.path): place_of(file) for file in files}
    placed = []
    for pair in pairs:
        place = places[str(next(pair.files()))]
        split = pair.split or place.split or ""
        placed.append(replace(pair, split=split, sequence="/".join(place.rest)))
    return placed


def _by_names(
    root: SourcePath,
    files: Sequence[Listed],
    layout: Layout,
    read: Callable[[str], bytes],
    peek: Peek,
) -> Found:
    hybrid, rest = hybrid_folders(files)
    groups: dict[object, dict[str, list[Listed]]] = defaultdict(lambda: defaultdict(list))
    for file in rest:
        place = place_of(file)
        groups[place.key][place.camera or "none"].append(file)
    found = [hybrid_pairs(folder, some) for folder, some in hybrid.items()]
    found += [_group_pairs(group) for group in groups.values()]
    found.append(flir_video_pairs(files, read))
    pairs, refused = together(found)
    if not pairs:
        pairs, refused = four_channel_pairs(rest, peek), []
    if not pairs:
        pairs, refused = restoration_pairs(rest, layout.camera, layout.lq)
    if not pairs:
        raise ValueError(_nothing_found(root, files))
    return _named_sets(root, pairs, files), refused


def _nothing_found(root: SourcePath, files: Sequence[Listed]) -> str:
    folders = {
        file.parts: place_of(file).camera
        for file in files
        if file.path.suffix.lower() in PICTURE_SUFFIXES
    }
    cameras = {camera for camera in folders.values() if camera}
    if len(cameras) == 1:
        parts = next(parts for parts, camera in folders.items() if camera)
        where = "/".join(parts)
        return f"{root}: has pictures in {where}/ but none in a partner folder of the other camera"
    return (
        f"{root}: holds no pairs: neither vi/ and ir/ (visible, rgb, thermal, infrared, …), nor split "
        "folders (train/, val/) with them, nor data sets that do; say which pictures are which with "
        "--vi 'PATTERN' --ir 'PATTERN', or --pairs FILE"
    )


def _group_pairs(group: Mapping[str, list[Listed]]) -> Found:
    """Pairs among pictures that agree in split and sequence."""
    vi, ir = (_one_folder(group.get(camera, []), camera) for camera in ("vi", "ir"))
    found = [_pair_listed(vi, ir)] if vi or ir else []
    by_folder: dict[tuple[str, ...], list[Listed]] = defaultdict(list)
    for file in group.get("none", []):
        by_folder[file.parts].append(file)
    return together(found + [_one_folder_pairs(files) for files in by_folder.values()])


def _pair_listed(vi: Sequence[Listed], ir: Sequence[Listed]) -> Found:
    pairs, refused = pair_files([file.path for file in vi], [file.path for file in ir])
    place = place_of((*vi, *ir)[0])
    split, sequence = place.split or "", "/".join(place.rest)
    return [replace(pair, split=split, sequence=sequence) for pair in pairs], refused


def _one_folder(files: Sequence[Listed], camera: str) -> list[Listed]:
    """A camera's files; of two folders of it, those of 8 bits or high resolution.

    Raises ValueError where nothing says which is meant.
    """
    folders: dict[tuple[str, ...], list[Listed]] = defaultdict(list)
    for file in files:
        folders[file.parts].append(file)
    with_pictures = {
        parts: some
        for parts, some in folders.items()
        if any(file.path.suffix.lower() in PICTURE_SUFFIXES for file in some)
    }
    if len(with_pictures) > 1:
        for word in ("8", "hr"):
            chosen = [p for p in with_pictures if word in "_".join(p).lower().split("_")]
            if len(chosen) == 1:
                return with_pictures[chosen[0]]
        both = " and ".join(f"{'/'.join(parts)}/" for parts in sorted(with_pictures))
        raise ValueError(
            f"has {both}; move all but one of them away, or say which with --vi and --ir"
        )
    return next(iter(with_pictures.values()), [])


def _one_folder_pairs(files: Sequence[Listed]) -> Found:
    """Pairs in a folder without a camera's name: by what file names say, else one VIS* and one IR*."""
    cameras: dict[str, list[Listed]] = {"vi": [], "ir": []}
    for file in files:
        known = camera_of_stem(file.path.stem)
        if known and file.path.suffix.lower() in PICTURE_SUFFIXES:
            cameras[known[0]].append(file)
    vi, ir = cameras["vi"], cameras["ir"]
    if not vi or not ir:
        return [], []
    place = place_of(vi[0])
    if len(vi) == len(ir) == 1:
        *outer, stem = place.rest or (neutral_stem(vi[0].path.stem, "vi"),)
        sequence = "/".join(outer)
        pair = SourcePair(place.split or "", stem, vi[0].path, ir[0].path, sequence=sequence)
        return [pair], []
    marked = together([_pair_listed(vi, ir)])
    if marked[0]:
        return marked
    reason = f"{len(vi)} VIS and {len(ir)} IR pictures in one scene folder; leave one each"
    return [], [Refused(path=folder_of(vi[0]), reason=reason)]


def _named_sets(
    root: SourcePath, pairs: Sequence[SourcePair], files: Sequence[Listed]
) -> list[SourcePair]:
    """Pairs with the data set that they belong to, and their sequence in front of their stem."""
    above = {str(file.path): place_of(file).outer for file in files}
    outer = [above[str(next(pair.files()))] for pair in pairs]
    wrapper = _common(outer)
    sets = [each[len(wrapper)] if len(each) > len(wrapper) else "" for each in outer]
    if not _are_datasets(pairs, sets):
        return _below(pairs, outer, wrapper)
    _check_sets(root, pairs, sets)
    named = []
    for name in sorted(set(sets)):
        places = [place for place, other in enumerate(sets) if other == name]
        here = [outer[place] for place in places]
        some = _below([pairs[place] for place in places], here, _common(here))
        named += [replace(pair, dataset=normalise_name(name)) for pair in some]
    return named


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all begin with: what an archive wraps its data set in."""
    both = zip(min(paths), max(paths), strict=False)
    return tuple(part for part, _ in takewhile(lambda parts: parts[0] == parts[1], both))


def _are_datasets(pairs: Sequence[SourcePair], sets: Sequence[str]) -> bool:
    """Whether the first folders are data sets, and not sequences of one: by their splits or names."""
    if len(set(sets)) < 2:
        return False
    return any(
        name.lower().startswith(_DATASETS) or (pair.split and name.lower() not in _CONDITIONS)
        for pair, name in zip(pairs, sets, strict=True)
        if name
    )


def _check_sets(root: SourcePath, pairs: Sequence[SourcePair], sets: Sequence[str]) -> None:
    if "" in sets:
        alone = pairs[sets.index("")]
        raise ValueError(
            f"{next(alone.files())}: in no data set's folder, beside data sets that have one; move its "
            f"split into its data set, below {root}"
        )
    names: dict[str, str] = {}
    for folder in sorted(set(sets)):
        first = names.setdefault(normalise_name(folder), folder)
        if first != folder:
            raise ValueError(
                f"{root}/{first} and {root}/{folder}: two data sets of one name; rename one"
            )


def _below(
    pairs: Sequence[SourcePair], outer: Sequence[tuple[str, ...]], wrapper: tuple[str, ...]
) -> list[SourcePair]:
    """Pairs without the wrapper in their sequence, which stands before their stem."""
    dropped = sum(bool(part) and not role_of(part).neutral for part in wrapper)
    placed = []
    for pair in pairs:
        rest = [part for part in pair.sequence.split("/") if part][dropped:]
        placed.append(replace(pair, sequence="/".join(rest), stem="-".join((*rest, pair.stem))))
    return placed


def _left_out(files: Sequence[Listed], known: set[str]) -> list[Refused]:
    """Pictures that are nobody's, a line a folder."""
    folders: dict[str, int] = defaultdict(int)
    for file in files:
        if file.path.suffix.lower() in PICTURE_SUFFIXES and str(file.path) not in known:
            folders[folder_of(file)] += 1
    return [
        Refused(path=folder, reason=f"{count} pictures that belong to no pair, left out", pairs=0)
        for folder, count in folders.items()
        if folder not in known
    ]
