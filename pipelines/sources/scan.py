"""Find the registered pairs of a folder, check them, give each a name and a checksum."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from degradations.catalogue import Modality
from pipelines.checks.damage import read_header
from pipelines.checks.depth import Window, WindowRule, apply_window, find_window
from pipelines.checks.targets import Bounds, Quality, measure_quality, poor_reasons
from pipelines.sources.layouts import Layout, find_pairs
from pipelines.sources.names import normalise_name
from pipelines.sources.pairing import Refused, SourcePair
from pipelines.sources.pictures import (
    as_ir,
    as_vi,
    check_sizes,
    decode_source,
    levels_of,
    perceptual_hash,
)
from pipelines.sources.scenes import Native, Read, Scene, SceneTable, read_file
from pipelines.sources.source_paths import SourcePath, stamp_of
from pipelines.store.names import first_few
from pipelines.store.seeding import digest_of

# Raise it when the same files come to another scene.
SCAN_VERSION = 1
# The smallest picture that a network takes; smaller ones would fail long after the scan.
MIN_SIDE_PX = 16
# What a pair takes while it is checked, and what all that are checked at once may take.
_ROWS_AT_ONCE = 10_000
_BYTES_PER_PIXEL = 16
_MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class ScanResult:
    """What a scan found; `refused` names every file that was left out."""

    scenes: SceneTable
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class ScanRules:
    """What a person decides of a scan: the layout, and windows of cameras with more than 8 bits.

    Scenes that one of the measures named in `refuse` puts beyond its bound are left out. Of `known`
    scenes, unless the scan is `full`, the files are not read again where their stamps agree.
    """

    layout: Layout = field(default_factory=Layout)
    vi_window: WindowRule | None = None
    ir_window: WindowRule | None = None
    bounds: Bounds = field(default_factory=Bounds)
    refuse: frozenset[str] = frozenset()
    known: SceneTable | None = None
    full: bool = False
    search_leaks: bool = True


@dataclass(frozen=True)
class Candidate:
    """A scene before it is checked: its name, and its files by URI; both cameras may be one file."""

    id: str
    dataset: str
    split: str
    cameras: tuple[tuple[Modality, str], ...]
    natives: tuple[tuple[str, str], ...] = ()
    windows: tuple[tuple[Modality, Window | None], ...] = ()
    stamps: tuple[str, ...] = ()

    @property
    def stamp(self) -> str:
        """Digest of all that decides what a check finds; "" where the files' own stamps are not known."""
        if not all(self.stamps):
            return ""
        windows = [(camera, window and window.model_dump()) for camera, window in self.windows]
        what = [self.id, self.dataset, self.split, self.cameras, self.natives, self.stamps, windows]
        return digest_of([SCAN_VERSION, *what])[:24]

    @property
    def both(self) -> bool:
        """Whether one file holds both cameras."""
        return len({uri for _, uri in self.cameras}) < len(self.cameras)


Checked = tuple[Scene | None, list[Refused]]
CheckAll = Callable[[Sequence[Candidate], Read], Iterable[Checked]]
"""What checks candidates, in their order: threads here, or tasks of a cluster."""


def scan(
    root: SourcePath,
    *,
    read: Read = read_file,
    dataset: str | None = None,
    rules: ScanRules | None = None,
    check_all: CheckAll | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanResult:
    """Index the pairs below `root`, in any of the layouts of `pipelines.sources.layouts`.

    `dataset` names the data set unless the root holds several, which have their folders' names; `read`
    fetches a file by its URI. Raises ValueError when the folder is missing or fits no layout.
    """
    rules = rules or ScanRules()
    pairs, refused = find_pairs(
        root, rules.layout, read=read, peek=lambda path: _num_channels_of(str(path), read)
    )
    candidates = _candidates(pairs, dataset or normalise_name(root.name))
    candidates = _with_windows(candidates, rules, read)
    gathered = _Gathered(rules)
    checked = _checked(candidates, rules.known, lambda some: (check_all or in_threads)(some, read))
    for done, (scene, bad) in enumerate(checked, start=1):
        refused += bad + (gathered.take(scene) if scene else [])
        if on_progress:
            on_progress(done, len(candidates))
    return ScanResult(scenes=gathered.scenes(), refused=tuple(refused))


def _checked(
    candidates: Sequence[Candidate],
    known: SceneTable | None,
    check: Callable[[Sequence[Candidate]], Iterable[Checked]],
) -> Iterator[Checked]:
    """Each candidate checked, in order; those that are known unchanged are not read again."""
    stamps = known.table.column("stamp").to_pylist() if known else []
    places = {stamp: place for place, stamp in enumerate(stamps) if stamp}
    fresh = iter(check([each for each in candidates if each.stamp not in places]))
    for candidate in candidates:
        if known and candidate.stamp in places:
            yield known[places[candidate.stamp]], []
        else:
            yield next(fresh)


class _Gathered:
    """Scenes with names of their own, kept as tables: a million of them as objects take gigabytes."""

    def __init__(self, rules: ScanRules) -> None:
        self._rules = rules
        self._paths: dict[str, str] = {}
        self._tables: list[pa.Table] = []
        self._scenes: list[Scene] = []

    def take(self, scene: Scene) -> list[Refused]:
        """Keep a scene, or say why not."""
        path = scene.source(scene.cameras[0])[0]
        if scene.id in self._paths:
            taken_by = self._paths[scene.id]
            reason = f"its scene id {scene.id!r} is taken by {taken_by}; rename one"
            return [Refused(path=path, reason=reason)]
        self._paths[scene.id] = path
        poor = _asked_for(scene, self._rules)
        if poor:
            # Who asks for that loses no pair by it.
            reason = f"a poor target, by --refuse: {poor}"
            return [Refused(path=path, reason=reason, pairs=0)]
        self._scenes.append(scene)
        if len(self._scenes) == _ROWS_AT_ONCE:
            self._flush()
        return []

    def scenes(self) -> SceneTable:
        """All that were kept."""
        self._flush()
        return SceneTable(pa.concat_tables(self._tables))

    def _flush(self) -> None:
        self._tables.append(SceneTable.of(self._scenes).table)
        self._scenes = []


def _asked_for(scene: Scene, rules: ScanRules) -> str:
    """The measures that `refuse` names and that speak against a scene."""
    if not rules.refuse or scene.quality is None:
        return ""
    reasons = poor_reasons(scene.quality, rules.bounds)
    return ", ".join(f"{name} {reasons[name]:g}" for name in sorted(rules.refuse & reasons.keys()))


def check_batch(batch: tuple[int, Sequence[Candidate]], read: Read) -> tuple[int, list[Checked]]:
    """Check some candidates, one after the other: the unit of work that goes to a cluster's worker."""
    number, candidates = batch
    return number, [check_candidate(candidate, read) for candidate in candidates]


def in_threads(candidates: Sequence[Candidate], read: Read) -> Iterator[Checked]:
    """Check candidates in threads of this process, as many as its memory allows at a time."""
    check = partial(check_candidate, read=read, memory=_Memory(_MEMORY_BYTES))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(check, candidates)


class _Memory:
    """Bytes that threads take and give back; one that asks for more than there is takes it all."""

    def __init__(self, num_bytes: int) -> None:
        self._all = self._left = num_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        """Hold some in the block; wait for it first."""
        num_bytes = min(num_bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= num_bytes)
            self._left -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._left += num_bytes
                self._changed.notify_all()


def _num_channels_of(uri: str, read: Read) -> int:
    try:
        return len(read_header(read(uri), uri).mode.replace("CMYK", ""))
    except ValueError:
        return 0


def _candidates(pairs: Sequence[SourcePair], dataset: str) -> list[Candidate]:
    return [
        Candidate(
            id=normalise_name(f"{pair.dataset or dataset}-{pair.split}-{pair.stem}"),
            dataset=pair.dataset or dataset,
            split=pair.split,
            cameras=tuple((camera, str(path.resolve())) for camera, path in pair.cameras.items()),
            natives=tuple((member, str(path.resolve())) for member, path in pair.natives),
            stamps=tuple(map(stamp_of, pair.files())),
        )
        for pair in pairs
    ]


def _with_windows(candidates: Sequence[Candidate], rules: ScanRules, read: Read) -> list[Candidate]:
    """Candidates with the window of their data set's cameras, measured once for each."""
    uris: dict[tuple[str, Modality], list[str]] = defaultdict(list)
    for candidate in candidates:
        for camera, uri in candidate.cameras:
            uris[candidate.dataset, camera] += [] if candidate.both else [uri]
    windows = {
        (dataset, camera): find_window(
            there,
            lambda uri: levels_of(read(uri), uri),
            rules.vi_window if camera == "vi" else rules.ir_window,
            from_zero=camera == "vi",
        )
        for (dataset, camera), there in uris.items()
    }
    return [
        replace(
            candidate,
            windows=tuple(
                (camera, windows[candidate.dataset, camera]) for camera, _ in candidate.cameras
            ),
        )
        for candidate in candidates
    ]


def check_refused_share(result: ScanResult, *, max_share: float, setting: str) -> None:
    """Raise ValueError, naming the first files, when more than `max_share` of the pairs was refused.

    Files that are no pictures are reported, not counted. `setting` is what a person may raise.
    """
    bad = [item for item in result.refused if item.pairs]
    lost = sum(item.pairs for item in bad)
    total = len(result.scenes) + lost
    if not result.scenes:
        raise ValueError(
            f"no usable pair: {describe_refused(result.refused) or 'the folders are empty'}"
        )
    if lost > max_share * total:
        raise ValueError(
            f"{lost} of {total} pairs refused, more than {max_share:.1%}: "
            f"{describe_refused(bad)}; fix the files or raise {setting}"
        )


def describe_refused(refused: Sequence[Refused]) -> str:
    """One line that names the first refused files with their reasons."""
    reasons = [f"{item.path}: {item.reason}" for item in refused]
    return first_few(reasons, separator="; ", last="; and ")


def check_candidate(
    candidate: Candidate, read: Read = read_file, memory: _Memory | None = None
) -> Checked:
    """Decode a scene's files; what is bad is refused by name, with its reason."""
    uris = [*{uri: None for _, uri in candidate.cameras}]
    try:
        data = {uri: read(uri) for uri in uris}
        headers = [read_header(data[uri], uri) for uri in uris]
        num_bytes = sum(header.width * header.height for header in headers) * _BYTES_PER_PIXEL // 2
        with (memory or _Memory(num_bytes)).taken(num_bytes):
            scene, refused = _check_pictures(candidate, data, read)
            radiometric = [
                uri for uri, header in zip(uris, headers, strict=True) if header.radiometric
            ]
            return scene, refused + [_radiometric(uri) for uri in radiometric]
    except (ValueError, PermissionError, MemoryError) as error:
        return None, [_refusal(error, uris)]


def _radiometric(uri: str) -> Refused:
    reason = (
        "a radiometric JPEG: its temperatures are not read, and the picture in it has a range of its own; "
        "extract them to 16-bit TIFF for one window"
    )
    return Refused(path=uri, reason=reason, pairs=0)


def _check_pictures(candidate: Candidate, data: dict[str, bytes], read: Read) -> Checked:
    known: dict[str, Any] = {}
    pictures: dict[str, np.ndarray] = {}
    windows = dict(candidate.windows)
    for camera, uri in candidate.cameras:
        stored = decode_source(data[uri], uri, both=candidate.both)
        image = apply_window(stored, windows.get(camera), uri)
        pictures[camera] = as_vi(image) if camera == "vi" else as_ir(image, uri)
        known |= {
            f"{camera}_uri": uri,
            f"{camera}_sha256": hashlib.sha256(data[uri]).hexdigest(),
            f"{camera}_channels": 1 if stored.ndim == 2 else stored.shape[2],
            f"{camera}_phash": perceptual_hash(image),
            f"{camera}_window": windows.get(camera),
        }
    height, width = _checked_size([*pictures.values()], candidate.cameras[0][1])
    natives, refused = _check_natives(candidate, read, (height, width))
    scene = Scene(
        id=candidate.id,
        dataset=candidate.dataset,
        split=candidate.split,
        width=width,
        height=height,
        natives=tuple(natives),
        quality=measure_quality(pictures),
        stamp=candidate.stamp,
        **known,
    )
    return scene, refused


def _checked_size(images: Sequence[np.ndarray], uri: str) -> tuple[int, int]:
    check_sizes(images[0], images[-1], uri)
    height, width = images[0].shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise ValueError(
            f"{uri}: {width}x{height} px is too small; {MIN_SIDE_PX} a side is the least"
        )
    return height, width


def _check_natives(
    candidate: Candidate, read: Read, size: tuple[int, int]
) -> tuple[list[Native], list[Refused]]:
    natives, refused = [], []
    windows = dict(candidate.windows)
    for member, uri in candidate.natives:
        camera: Modality = "vi" if member.startswith("vi") else "ir"
        try:
            data = read(uri)
            image = apply_window(decode_source(data, uri), windows.get(camera), uri)
            image = as_vi(image) if camera == "vi" else as_ir(image, uri)
            if image.shape[:2] != size:
                raise ValueError(f"{uri}: {image.shape[1]}x{image.shape[0]}, unlike its target")
        except (ValueError, PermissionError) as error:
            refused.append(_refusal(error, [uri]))
        else:
            natives.append(Native(member=member, uri=uri, sha256=hashlib.sha256(data).hexdigest()))
    return natives, refused


def _refusal(error: Exception, uris: Sequence[str]) -> Refused:
    """A refusal of the file that an error's message begins with."""
    text = " ".join(str(error).split())
    path = next((uri for uri in uris if text.startswith(f"{uri}: ")), uris[0])
    return Refused(path=path, reason=text.removeprefix(f"{path}: ") or type(error).__name__)


def poor_targets(scenes: SceneTable, bounds: Bounds) -> dict[str, dict[str, float]]:
    """By the ids of poor targets, the measures that make them so."""
    found = {}
    for batch in scenes.table.select(["id", "quality"]).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            reasons = poor_reasons(Quality(**row["quality"]), bounds) if row["quality"] else {}
            if reasons:
                found[row["id"]] = reasons
    return found
