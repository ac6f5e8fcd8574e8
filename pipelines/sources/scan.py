"""Find the registered pairs of a folder, check them, give each a name and a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.sources.layouts import NOT_A_PICTURE, Refused, SourcePair, find_pairs, normalise_name
from pipelines.sources.pictures import as_ir, as_vi, check_sizes, decode, perceptual_hash
from pipelines.sources.scenes import Native, Read, Scene, SceneTable, read_file
from pipelines.sources.source_paths import SourcePath

# The smallest picture that a network takes; smaller ones would fail long after the scan.
MIN_SIDE_PX = 16


@dataclass(frozen=True)
class ScanResult:
    """What a scan found; `refused` names every file that was left out."""

    scenes: SceneTable
    refused: tuple[Refused, ...]


def scan(
    root: SourcePath,
    *,
    read: Read = read_file,
    dataset: str | None = None,
    split: str = "train",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanResult:
    """Index the pairs below `root`, in any of the layouts of `pipelines.sources.layouts`.

    `dataset` names the data set unless the root holds several, which have their folders' names;
    `split` names the split of one without split folders; `read` fetches a file by its URI. Raises
    ValueError when the folder is missing or fits no layout.
    """
    dataset = dataset or normalise_name(root.name)
    scenes: list[Scene] = []
    pairs, refused = find_pairs(root, split=split)
    with ThreadPoolExecutor() as pool:
        checked = pool.map(lambda pair: _check_pair(pair.dataset or dataset, pair, read), pairs)
        for done, (scene, bad) in enumerate(checked, start=1):
            scenes += [scene] if scene else []
            refused += bad
            if on_progress:
                on_progress(done, len(pairs))
    unique, clashes = _without_clashes(scenes)
    return ScanResult(scenes=SceneTable.of(unique), refused=tuple(refused + clashes))


def check_refused_share(result: ScanResult, *, max_share: float, setting: str) -> None:
    """Raise ValueError, naming the first files, when more than `max_share` of the pairs was refused.

    Files that are no pictures are reported, not counted. `setting` is what a person may raise.
    """
    bad = [item for item in result.refused if item.reason != NOT_A_PICTURE]
    total = len(result.scenes) + len(bad)
    if not result.scenes:
        raise ValueError(
            f"no usable pair: {describe_refused(result.refused) or 'the folders are empty'}"
        )
    if len(bad) > max_share * total:
        raise ValueError(
            f"{len(bad)} of {total} pairs refused, more than {max_share:.1%}: "
            f"{describe_refused(bad)}; fix the files or raise {setting}"
        )


def describe_refused(refused: Sequence[Refused], *, most: int = 3) -> str:
    """One line that names the first `most` refused files with their reasons."""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in refused[:most])
    return shown + (f"; and {len(refused) - most} more" if len(refused) > most else "")


def _check_pair(dataset: str, pair: SourcePair, read: Read) -> tuple[Scene | None, list[Refused]]:
    """Decode both files and every native; a bad file is refused by name, with its reason."""
    try:
        vi_data, ir_data = read(str(pair.vi)), read(str(pair.ir))
        vi, ir = decode(vi_data, str(pair.vi)), decode(ir_data, str(pair.ir))
        check_sizes(as_vi(vi), as_ir(ir, str(pair.ir)), str(pair.vi))
        if min(vi.shape[:2]) < MIN_SIDE_PX:
            size = f"{vi.shape[1]}x{vi.shape[0]}"
            raise ValueError(
                f"{pair.vi}: {size} px is too small; {MIN_SIDE_PX} a side is the least"
            )
    except ValueError as error:
        return None, [_refusal(error)]
    natives, refused = _check_natives(pair, read, vi.shape[:2])
    scene = Scene(
        id=normalise_name(f"{dataset}-{pair.split}-{pair.stem}"),
        dataset=dataset,
        split=pair.split,
        vi_uri=str(pair.vi.resolve()),
        ir_uri=str(pair.ir.resolve()),
        width=vi.shape[1],
        height=vi.shape[0],
        vi_sha256=hashlib.sha256(vi_data).hexdigest(),
        ir_sha256=hashlib.sha256(ir_data).hexdigest(),
        vi_channels=_num_channels(vi),
        ir_channels=_num_channels(ir),
        vi_phash=perceptual_hash(vi),
        ir_phash=perceptual_hash(ir),
        natives=tuple(natives),
    )
    return scene, refused


def _check_natives(
    pair: SourcePair, read: Read, size: tuple[int, ...]
) -> tuple[list[Native], list[Refused]]:
    natives, refused = [], []
    for member, path in pair.natives:
        try:
            data = read(str(path))
            image = decode(data, str(path))
            image = as_vi(image) if member.startswith("vi") else as_ir(image, str(path))
            if image.shape[:2] != size:
                raise ValueError(f"{path}: {image.shape[1]}x{image.shape[0]}, unlike its target")
        except ValueError as error:
            refused.append(_refusal(error))
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            natives.append(Native(member=member, uri=str(path.resolve()), sha256=sha256))
    return natives, refused


def _refusal(error: ValueError) -> Refused:
    path, _, reason = str(error).partition(": ")
    return Refused(path=path, reason=reason)


def _num_channels(image: np.ndarray) -> int:
    return 1 if image.ndim == 2 else image.shape[2]


def _without_clashes(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Refused]]:
    unique: dict[str, Scene] = {}
    clashes = []
    for scene in scenes:
        first = unique.setdefault(scene.id, scene)
        if first is not scene:
            taken_by, path = (one.source(one.cameras[0])[0] for one in (first, scene))
            reason = f"its scene id {scene.id!r} is taken by {taken_by}; rename one"
            clashes.append(Refused(path=path, reason=reason))
    return list(unique.values()), clashes
