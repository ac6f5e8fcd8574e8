"""Two cameras' files brought together: by stem, by patterns, or by a table of pairs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict

from degradations.catalogue import Modality, find
from pipelines.sources.names import (
    CAMERAS,
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    composed,
    is_junk,
    neutral_stem,
    role_of,
    same_name,
)
from pipelines.sources.source_paths import SourcePath
from pipelines.store.names import nearest

NOT_A_PICTURE = "not an image file (by its extension)"
# Looking for a likely partner of every one of many files takes their square.
_MOST_HINTS = 20
_OTHER: dict[Modality, str] = {"vi": "IR", "ir": "VI"}


class Refused(BaseModel):
    """What is not part of a usable pair, and why. `pairs` are lost by it; none by a note or a label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    reason: str
    pairs: int = 1


@dataclass(frozen=True)
class SourcePair:
    """Two files of one scene, of which restoration sets lack one; `natives` are degraded variants of it.

    `dataset` is empty where the root holds no more than one, `split` where nothing names it; `sequence`
    is the folder that the scene shares with its neighbours in time.
    """

    split: str
    stem: str
    vi: SourcePath | None
    ir: SourcePath | None
    natives: tuple[tuple[str, SourcePath], ...] = ()
    dataset: str = ""
    sequence: str = ""

    @property
    def cameras(self) -> dict[Modality, SourcePath]:
        """The files that it has."""
        both: tuple[tuple[Modality, SourcePath | None], ...] = (("vi", self.vi), ("ir", self.ir))
        return {camera: path for camera, path in both if path is not None}

    def files(self) -> Iterator[SourcePath]:
        """All its files, each once."""
        paths = (*self.cameras.values(), *(path for _, path in self.natives))
        yield from {str(path): path for path in paths}.values()


Found = tuple[list[SourcePair], list[Refused]]


def visible(folder: SourcePath) -> list[SourcePath]:
    """What lies in a folder, in order of name, without junk."""
    return sorted(path for path in folder.iterdir() if not is_junk(path.name))


def pictures_of(files: Sequence[SourcePath]) -> tuple[list[SourcePath], list[Refused]]:
    """The files that are read, and why the others are not."""
    good, refused = [], []
    for path in files:
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            good.append(path)
        elif suffix in UNREAD_SUFFIXES:
            reason = f"pictures of this format ({suffix}) are not read; convert them to PNG"
            refused.append(Refused(path=str(path), reason=reason))
        else:
            refused.append(Refused(path=str(path), reason=NOT_A_PICTURE, pairs=0))
    return good, refused


def pair_by_stem(vi_folder: SourcePath, ir_folder: SourcePath) -> Found:
    """Pair the pictures of two folders by file stem; what has no partner is refused by name."""
    files = ([path for path in visible(each) if path.is_file()] for each in (vi_folder, ir_folder))
    return pair_files(*files)


def pair_files(vi: Sequence[SourcePath], ir: Sequence[SourcePath], *, split: str = "") -> Found:
    """Pair files by stem: as they are, else whatever the case and what marks the camera (v0001, 1_ir)."""
    vi_files: dict[str, SourcePath] = {}
    ir_files: dict[str, SourcePath] = {}
    refused: list[Refused] = []
    for files, found in ((vi, vi_files), (ir, ir_files)):
        pictures, bad = pictures_of(files)
        refused += bad + _by_stem(pictures, found)
    pairs = [
        SourcePair(split, stem, vi_files.pop(stem), ir_files.pop(stem))
        for stem in sorted(vi_files.keys() & ir_files.keys())
    ]
    pairs += _pair_loosely(vi_files, ir_files, split)
    refused += [*_alone(vi_files, ir_files, "vi"), *_alone(ir_files, vi_files, "ir")]
    return pairs, _counted_once(refused)


def _by_stem(files: Sequence[SourcePath], found: dict[str, SourcePath]) -> list[Refused]:
    refused = []
    for path in files:
        first = found.setdefault(composed(path.stem), path)
        if first is not path:
            reason = f"second file of the stem {path.stem!r} beside {first.name}"
            refused.append(Refused(path=str(path), reason=reason))
    return refused


def _pair_loosely(
    vi: dict[str, SourcePath], ir: dict[str, SourcePath], split: str
) -> Iterator[SourcePair]:
    """Pairs of what is left, taken out of it: first by case alone, then without what marks the camera."""
    for marked in (True, False):
        names = [
            _unique(
                {stem: same_name(stem if marked else neutral_stem(stem, camera)) for stem in files}
            )
            for files, camera in zip((vi, ir), CAMERAS, strict=True)
        ]
        for name in sorted(names[0].keys() & names[1].keys()):
            first, second = names[0][name], names[1][name]
            stem = first if marked else neutral_stem(first, "vi")
            yield SourcePair(split, stem, vi.pop(first), ir.pop(second))


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Stem of each name that only one stem has."""
    stems: dict[str, list[str]] = {}
    for stem, name in names.items():
        stems.setdefault(name, []).append(stem)
    return {name: having[0] for name, having in stems.items() if len(having) == 1}


def _alone(
    files: Mapping[str, SourcePath], others: Mapping[str, SourcePath], camera: Modality
) -> Iterator[Refused]:
    for number, (stem, path) in enumerate(sorted(files.items())):
        hint = nearest(stem, others) if number < _MOST_HINTS else ""
        yield Refused(
            path=str(path), reason=f"has no {_OTHER[camera]} picture of the same name{hint}"
        )


def _counted_once(refused: Sequence[Refused]) -> list[Refused]:
    """Two files of one name, one a camera, are one lost pair."""
    seen: set[str] = set()
    counted = []
    for item in refused:
        name = same_name(PurePosixPath(item.path).stem)
        again = item.pairs and name in seen
        seen |= {name} if item.pairs else set()
        counted.append(item.model_copy(update={"pairs": 0}) if again else item)
    return counted


@dataclass(frozen=True)
class Listed:
    """A file below the root, and its folders from there."""

    parts: tuple[str, ...]
    path: SourcePath

    @property
    def relative(self) -> str:
        """Its name from the root."""
        return "/".join((*self.parts, self.path.name))


def walk(root: SourcePath, parts: tuple[str, ...] = ()) -> Iterator[Listed]:
    """Every file below a folder but junk, in order."""
    for path in visible(root):
        if path.is_dir():
            yield from walk(path, (*parts, path.name))
        else:
            yield Listed(parts, path)


@dataclass(frozen=True)
class Place:
    """What a file's folders say; `rest` name neither camera nor split, `outer` are above all that do."""

    camera: Modality | None
    split: str | None
    rest: tuple[str, ...]
    outer: tuple[str, ...]

    @property
    def key(self) -> tuple[str | None, tuple[str, ...]]:
        """What pictures of two cameras agree in."""
        return self.split, tuple(map(composed, self.rest))


def place_of(file: Listed) -> Place:
    """What the folders of a file say of it.

    Of two that name a camera the inner one does: a data set may have a camera's name. Of two splits, too.
    """
    roles = [role_of(part) for part in file.parts]
    cameras = [place for place, role in enumerate(roles) if role.camera]
    named = {*cameras[-1:], *(place for place, role in enumerate(roles) if role.split)}
    rest = tuple(
        part
        for place, (part, role) in enumerate(zip(file.parts, roles, strict=True))
        if part and place not in named and not role.neutral
    )
    return Place(
        camera=roles[cameras[-1]].camera if cameras else None,
        split=next((role.split for role in reversed(roles) if role.split), None),
        rest=rest,
        outer=file.parts[: min(named, default=len(roles))],
    )


def folder_of(file: Listed) -> str:
    """The URI of a file's folder."""
    return str(file.path).removesuffix(f"/{file.path.name}")


def together(parts: Iterable[Found]) -> Found:
    """What several searches found, as one."""
    pairs: list[SourcePair] = []
    refused: list[Refused] = []
    for some, bad in parts:
        pairs += some
        refused += bad
    return pairs, refused


def pair_by_patterns(files: Sequence[Listed], vi: str, ir: str) -> Found:
    """Pair what two patterns match by what their wildcards (`*`, `?`, `**`) stand for.

    Raises ValueError for a pattern that matches no picture.
    """
    matched = [_matches(files, pattern, option) for pattern, option in ((vi, "--vi"), (ir, "--ir"))]
    pairs, refused = [], []
    for key in sorted(matched[0].keys() | matched[1].keys()):
        one, other = (found.get(key) for found in matched)
        if one and other:
            stem = "-".join(part.replace("/", "-") for part in key if part) or one.path.stem
            pairs.append(SourcePair("", stem, one.path, other.path))
        else:
            path = str((one or other).path)  # type: ignore[union-attr]
            reason = f"{'--ir' if one else '--vi'} matches no partner of it"
            refused.append(Refused(path=path, reason=reason))
    return pairs, refused


def _matches(files: Sequence[Listed], pattern: str, option: str) -> dict[tuple[str, ...], Listed]:
    text = re.escape(composed(pattern))
    for wild, groups in ((r"\*\*/", "(?:(.*)/)?"), (r"\*", "([^/]*)"), (r"\?", "([^/])")):
        text = text.replace(wild, groups)
    found: dict[tuple[str, ...], Listed] = {}
    for file in files:
        match = re.fullmatch(text, composed(file.relative))
        if match and file.path.suffix.lower() in IMAGE_SUFFIXES:
            first = found.setdefault(tuple(group or "" for group in match.groups()), file)
            if first is not file:
                raise ValueError(
                    f"{option} {pattern}: {first.relative} and {file.relative} match alike; write "
                    "more of the name with wildcards"
                )
    if not found:
        raise ValueError(f"{option} {pattern}: matches no picture below the folder")
    return found


def pair_by_table(files: Sequence[Listed], table: str, name: str) -> Found:
    """Pair as a CSV file says: columns vi and ir (names from the root), and perhaps split and scene.

    One of the two may be empty: a scene of one camera. Columns such as vi_low_light name pictures of the
    scene that suffer it. Raises ValueError for a table without these columns, and for others.
    """
    rows = csv.DictReader(table.lstrip("\ufeff").splitlines())
    columns = set(rows.fieldnames or ())
    if not {"vi", "ir"} <= columns:
        raise ValueError(f"{name}: a table of pairs has the columns vi and ir (and split, scene)")
    natives = sorted(columns - {"vi", "ir", "split", "scene"})
    _check_natives(natives, name)
    there = {composed(file.relative): file.path for file in files}
    pairs, refused = [], []
    for row in rows:
        named = {column: row[column] for column in ("vi", "ir", *natives) if row[column]}
        missing = [path for path in named.values() if composed(path) not in there]
        if missing or not {"vi", "ir"} & named.keys():
            reason = "there is no such picture" if missing else "neither vi nor ir"
            shown = missing[0] if missing else f"line {rows.line_num}"
            refused.append(Refused(path=f"{name}: {shown}", reason=reason))
            continue
        paths = {column: there[composed(path)] for column, path in named.items()}
        clean = PurePosixPath(row["vi"] or row["ir"])
        stem = row.get("scene") or clean.with_suffix("").as_posix()
        pairs.append(
            SourcePair(
                row.get("split") or "",
                stem.replace("/", "-"),
                paths.pop("vi", None),
                paths.pop("ir", None),
                natives=tuple(paths.items()),
            )
        )
    return pairs, refused


def _check_natives(columns: Sequence[str], name: str) -> None:
    for column in columns:
        camera, _, what = column.partition("_")
        if camera not in ("vi", "ir"):
            raise ValueError(
                f"{name}: column {column!r}; a table of pairs has vi, ir, split, scene, and what a "
                "picture suffers, such as vi_low_light"
            )
        find("vi" if camera == "vi" else "ir", what)
