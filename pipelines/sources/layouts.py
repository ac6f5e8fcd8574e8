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

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import PurePosixPath

from degradations.catalogue import Modality
from pipelines.sources.names import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    Role,
    camera_of_stem,
    composed,
    neutral_stem,
    normalise_name,
    role_of,
    same_name,
    split_of,
)
from pipelines.sources.pairing import (
    Found,
    Listed,
    Refused,
    SourcePair,
    pair_by_patterns,
    pair_by_table,
    pair_files,
    pictures_of,
    walk,
)
from pipelines.sources.source_paths import SourcePath

TARGETS = ("vi_enhanced", "ir_enhanced")
# Data sets whose folders stand side by side without splits; others of that shape are sequences.
_DATASETS = (
    "msrs", "llvip", "roadscene", "tno", "m3fd", "m3svd", "fmb", "kaist", "cvc", "dronevehicle",
    "lasher", "rgbt", "flir", "mfnet",
)  # fmt: skip
_CONDITIONS = frozenset([
    "day", "night", "dawn", "dusk", "morning", "evening", "daytime", "nighttime", "campus", "road",
])  # fmt: skip
_FLIR_VIDEO_MAP = "rgb_to_thermal_vid_map.json"
_PICTURES = IMAGE_SUFFIXES | UNREAD_SUFFIXES

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


Peek = Callable[[SourcePath], int]
"""Number of channels that a picture's file has."""


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
    lists = layout.split_lists or _lists_in(files, read)
    pairs, unlisted = _split_by_lists(pairs, lists, given=bool(layout.split_lists))
    pairs = [replace(pair, split=pair.split or layout.split) for pair in pairs]
    return _held_out(pairs, layout.hold_out), refused + unlisted


def _held_out(pairs: Sequence[SourcePair], share: float) -> list[SourcePair]:
    """Pairs of which each data set without a val split has one: of whole sequences, where it has some.

    Which they are is drawn by their names, so that another scan of the same pairs draws the same.
    """
    sets: dict[str, list[SourcePair]] = defaultdict(list)
    for pair in pairs:
        sets[pair.dataset].append(pair)
    held: set[tuple[str, str]] = set()
    for dataset, those in sets.items():
        if share and not any(pair.split == "val" for pair in those):
            held |= {(dataset, name) for name in _drawn([*map(_unit, those)], share)}
    return [
        replace(pair, split="val")
        if pair.split == "train" and (pair.dataset, _unit(pair)) in held
        else pair
        for pair in pairs
    ]


def _unit(pair: SourcePair) -> str:
    """What is held out as one: neighbours in time look alike."""
    return pair.sequence or pair.stem


def _drawn(units: Sequence[str], share: float) -> list[str]:
    """Units drawn at random until they are `share` of all, at least one and never all."""
    counts = Counter(units)
    order = sorted(counts, key=lambda unit: hashlib.sha256(unit.encode()).digest())
    drawn: list[str] = []
    number = 0
    for unit in order[: len(order) - 1]:
        if drawn and number >= share * len(units):
            break
        drawn.append(unit)
        number += counts[unit]
    return drawn


def _placed(pairs: Sequence[SourcePair], files: Sequence[Listed]) -> list[SourcePair]:
    """Pairs with the split and the sequence that their visible file's folders name."""
    places = {str(file.path): _place(file) for file in files}
    placed = []
    for pair in pairs:
        place = places[str(pair.vi)]
        split = pair.split or place.split or ""
        placed.append(replace(pair, split=split, sequence="/".join(place.rest)))
    return placed


@dataclass(frozen=True)
class _Place:
    """What a file's folders say; `rest` are those that name neither camera nor split."""

    camera: Modality | None
    split: str | None
    rest: tuple[str, ...]

    @property
    def key(self) -> tuple[str | None, tuple[str, ...]]:
        """What pictures of two cameras agree in."""
        return self.split, tuple(map(composed, self.rest))


def _place(file: Listed) -> _Place:
    roles = [role_of(part) for part in file.parts]
    camera = next((role.camera for role in reversed(roles) if role.camera), None)
    split = next((role.split for role in reversed(roles) if role.split), None)
    rest = tuple(
        part for part, role in zip(file.parts, roles, strict=True) if part and role == Role()
    )
    return _Place(camera, split, rest)


def _by_names(
    root: SourcePath,
    files: Sequence[Listed],
    layout: Layout,
    read: Callable[[str], bytes],
    peek: Peek,
) -> Found:
    hybrid, rest = _apart(files)
    groups: dict[object, dict[str, list[Listed]]] = defaultdict(lambda: defaultdict(list))
    for file in rest:
        place = _place(file)
        groups[place.key][place.camera or "none"].append(file)
    found = [_hybrid_pairs(folder, some) for folder, some in hybrid.items()]
    found += [_group_pairs(group) for group in groups.values()]
    found.append(_flir_videos(files, read))
    pairs, refused = _together(found)
    if not pairs:
        pairs, refused = _four_channels(rest, peek), []
    if not pairs:
        pairs, refused = _restoration(rest, layout)
    if not pairs:
        raise ValueError(_nothing_found(root, files))
    return _named_sets(root, pairs, files), refused


def _nothing_found(root: SourcePath, files: Sequence[Listed]) -> str:
    folders = {
        file.parts: _place(file).camera for file in files if file.path.suffix.lower() in _PICTURES
    }
    cameras = {camera for camera in folders.values() if camera}
    if len(cameras) == 1:
        parts = next(parts for parts, camera in folders.items() if camera)
        return f"{root}: has {'/'.join(parts)}/ but not its partner folder of the other camera"
    return (
        f"{root}: holds no pairs: neither vi/ and ir/ (visible, rgb, thermal, infrared, …), nor split "
        "folders (train/, val/) with them, nor data sets that do; say which pictures are which with "
        "--vi 'PATTERN' --ir 'PATTERN', or --pairs FILE"
    )


def _apart(
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


def _group_pairs(group: Mapping[str, list[Listed]]) -> Found:
    """Pairs among pictures that agree in split and sequence."""
    vi, ir = (_one_folder(group.get(camera, []), camera) for camera in ("vi", "ir"))
    found = [_pair_listed(vi, ir)] if vi or ir else []
    by_folder: dict[tuple[str, ...], list[Listed]] = defaultdict(list)
    for file in group.get("none", []):
        by_folder[file.parts].append(file)
    return _together(found + [_one_folder_pairs(files) for files in by_folder.values()])


def _pair_listed(vi: Sequence[Listed], ir: Sequence[Listed]) -> Found:
    pairs, refused = pair_files([file.path for file in vi], [file.path for file in ir])
    place = _place((*vi, *ir)[0])
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
        if any(file.path.suffix.lower() in _PICTURES for file in some)
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
        if known and file.path.suffix.lower() in _PICTURES:
            cameras[known[0]].append(file)
    vi, ir = cameras["vi"], cameras["ir"]
    if not vi or not ir:
        return [], []
    place = _place(vi[0])
    if len(vi) == len(ir) == 1:
        *outer, stem = place.rest or (neutral_stem(vi[0].path.stem, "vi"),)
        sequence = "/".join(outer)
        pair = SourcePair(place.split or "", stem, vi[0].path, ir[0].path, sequence=sequence)
        return [pair], []
    marked = _together([_pair_listed(vi, ir)])
    if marked[0]:
        return marked
    reason = f"{len(vi)} VIS and {len(ir)} IR pictures in one scene folder; leave one each"
    return [], [Refused(path=_folder(vi[0]), reason=reason)]


def _folder(file: Listed) -> str:
    return str(file.path).removesuffix(f"/{file.path.name}")


def _flir_videos(files: Sequence[Listed], read: Callable[[str], bytes]) -> Found:
    """FLIR ADAS v2: its videos' frames are paired by a table of their names."""
    maps = [file for file in files if file.path.name == _FLIR_VIDEO_MAP]
    if not maps:
        return [], []
    names = json.loads(read(str(maps[0].path)))
    there = {file.path.name: file for file in files}
    pairs = []
    for vi, ir in sorted(names.items()):
        if vi in there and ir in there:
            split = _place(there[vi]).split or "test"
            pairs.append(SourcePair(split, PurePosixPath(vi).stem, there[vi].path, there[ir].path))
    return pairs, []


def _four_channels(files: Sequence[Listed], peek: Peek) -> list[SourcePair]:
    """MFNet: pictures of four channels, in folders whose first picture has them."""
    folders: dict[tuple[str, ...], list[Listed]] = defaultdict(list)
    for file in files:
        if file.path.suffix.lower() in IMAGE_SUFFIXES:
            folders[file.parts].append(file)
    pairs = []
    for some in folders.values():
        if peek(some[0].path) == 4:
            place = _place(some[0])
            sequence = "/".join(place.rest)
            pairs += [
                SourcePair(
                    place.split or "", file.path.stem, file.path, file.path, sequence=sequence
                )
                for file in some
            ]
    return pairs


def _restoration(files: Sequence[Listed], layout: Layout) -> Found:
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
    found = [_clean_and_degraded(some["gt"], some["lq"], layout) for some in folders.values()]
    return _together(found)


def _clean_and_degraded(
    clean: Sequence[Listed], degraded: Sequence[Listed], layout: Layout
) -> Found:
    if not clean:
        reason = f"{len(degraded)} degraded pictures without clean ones (gt/) beside them"
        return [], [Refused(path=_folder(degraded[0]), reason=reason, pairs=len(degraded))]
    camera = layout.camera
    if camera is None:
        raise ValueError(f"{_folder(clean[0])}: pictures of one camera; say which with --camera")
    if degraded and layout.lq is None:
        raise ValueError(
            f"{_folder(degraded[0])}: degraded pictures; say with --lq by what (low_light, rain, …)"
        )
    place = _place(clean[0])
    sequence = tuple(part for part in place.rest if part.lower() != "gt")
    found, refused = pair_files([f.path for f in clean], [f.path for f in degraded])
    partner = {str(pair.vi): pair.ir for pair in found}
    pictures, bad = pictures_of([file.path for file in clean])
    pairs = []
    for path in pictures:
        lq = partner.get(str(path))
        pairs.append(
            SourcePair(
                place.split or "",
                path.stem,
                path if camera == "vi" else None,
                path if camera == "ir" else None,
                natives=((f"{camera}_{layout.lq}", lq),) if lq else (),
                sequence="/".join(sequence),
            )
        )
    lost = [item for item in refused if "/lq/" in item.path]
    return pairs, bad + lost


def _hybrid_pairs(folder: tuple[str, ...], files: Sequence[Listed]) -> Found:
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
    place = _place(files[0])
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


def _named_sets(
    root: SourcePath, pairs: Sequence[SourcePair], files: Sequence[Listed]
) -> list[SourcePair]:
    """Pairs with the data set that they belong to, and their sequence in front of their stem."""
    parts = {str(file.path): file.parts for file in files}
    outer = [_outer(parts[str(next(pair.files()))]) for pair in pairs]
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


def _outer(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The folders of a file above those that name its camera and split."""
    named = [place for place, part in enumerate(parts) if _names_something(role_of(part))]
    return parts[: named[0]] if named else parts


def _names_something(role: Role) -> bool:
    return role.camera is not None or role.split is not None


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
    dropped = sum(role_of(part) == Role() and bool(part) for part in wrapper)
    placed = []
    for pair in pairs:
        rest = [part for part in pair.sequence.split("/") if part][dropped:]
        placed.append(replace(pair, sequence="/".join(rest), stem="-".join((*rest, pair.stem))))
    return placed


def _left_out(files: Sequence[Listed], known: set[str]) -> list[Refused]:
    """Pictures that are nobody's, a line a folder."""
    folders: dict[str, int] = defaultdict(int)
    for file in files:
        if file.path.suffix.lower() in _PICTURES and str(file.path) not in known:
            folders[_folder(file)] += 1
    return [
        Refused(path=folder, reason=f"{count} pictures that belong to no pair, left out", pairs=0)
        for folder, count in folders.items()
        if folder not in known
    ]


def _lists_in(files: Sequence[Listed], read: Callable[[str], bytes]) -> dict[str, str]:
    """Lists of splits that a data set brings: `train.txt` in its root, in `meta/` or elsewhere."""
    lists: dict[str, str] = {}
    for file in files:
        split = split_of(file.path.name) if file.path.suffix.lower() == ".txt" else None
        if split:
            lists[split] = (
                lists.get(split, "") + "\n" + read(str(file.path)).decode(errors="replace")
            )
    return lists


def _split_by_lists(pairs: Sequence[SourcePair], lists: Mapping[str, str], *, given: bool) -> Found:
    """Pairs with the split whose list names them; pairs that folders put into a split stay there.

    Of lists that are `given` the others are left out. Raises ValueError where those contradict each
    other; lists that only lie in the folder are then not used.
    """
    if not lists or all(pair.split for pair in pairs):
        return list(pairs), []
    splits, twice = _listed_splits(lists)
    if twice and given:
        raise ValueError(f"--split-list: {twice} is in two lists; leave it in one")
    if twice:
        reason = f"not used: {twice} is in two of these lists of splits"
        return list(pairs), [Refused(path=", ".join(lists), reason=reason, pairs=0)]
    listed, refused = [], []
    for pair in pairs:
        names = [_listed_name(name) for name in _names_of(pair)]
        split = pair.split or next((splits[name] for name in names if name in splits), "")
        if given and not split:
            reason = "in no --split-list, left out"
            refused.append(Refused(path=str(next(pair.files())), reason=reason, pairs=0))
        else:
            listed.append(replace(pair, split=split))
    unlisted = [pair for pair in listed if not pair.split]
    if unlisted:
        reason = f"name all but {len(unlisted)} pairs, which are of the default split (--split)"
        refused.append(Refused(path=f"lists of {', '.join(lists)}", reason=reason, pairs=0))
    return listed, refused


def _listed_splits(lists: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The split of each listed name, and a name that two lists have."""
    splits: dict[str, str] = {}
    for split, text in lists.items():
        for line in filter(str.strip, text.splitlines()):
            if splits.setdefault(_listed_name(line), split) != split:
                return splits, line.strip()
    return splits, None


def _names_of(pair: SourcePair) -> Iterator[str]:
    """What a list may call a pair, the longest name first."""
    for stem in (pair.stem, *(path.stem for path in pair.files())):
        folders = pair.sequence.split("/") if pair.sequence else []
        for start in range(len(folders) + 1):
            yield "/".join((*folders[start:], stem))


def _listed_name(line: str) -> str:
    name = PurePosixPath(composed(line.strip().lstrip("./")))
    stem = name.with_suffix("") if name.suffix.lower() in _PICTURES else name
    folders = (part for part in stem.parts[:-1] if role_of(part) == Role())
    return same_name("/".join((*folders, stem.name)))


def _together(parts: Iterable[Found]) -> Found:
    pairs: list[SourcePair] = []
    refused: list[Refused] = []
    for some, bad in parts:
        pairs += some
        refused += bad
    return pairs, refused
