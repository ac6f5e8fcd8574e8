"""Index of registered IR/VI pairs: find them, check them, give each a name and a checksum.

A scene is one registered pair. Its split is decided here, by scene, never by variant.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from pipelines.files import whole_file
from pipelines.images import decode_ir, decode_vi
from pipelines.seeding import digest_of

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VI_FOLDERS = ("vi", "vis", "visible")
IR_FOLDERS = ("ir", "inf", "infrared")


class Scene(BaseModel):
    """One registered pair. Sizes in pixels; URIs are absolute paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # No dot: WebDataset cuts a sample's key at the first one and would merge scenes.
    id: str = Field(pattern=r"^[a-z0-9_-]+$")
    dataset: str
    split: str
    vi_uri: str
    ir_uri: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    vi_sha256: str
    ir_sha256: str

    @property
    def digest(self) -> str:
        """Digest of name and contents; where the files lie does not matter."""
        return digest_of([self.id, self.vi_sha256, self.ir_sha256])


class Refused(BaseModel):
    """A file that is not part of a usable pair, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    reason: str


class ScanResult(BaseModel):
    """What a scan found; `refused` names every file that was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: tuple[Scene, ...]
    refused: tuple[Refused, ...]


def scan(
    root: Path,
    *,
    dataset: str | None = None,
    split: str = "train",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanResult:
    """Index the pairs below `root`, which holds `vi/` and `ir/`, or split folders that hold them.

    `split` names the split of a root without split folders. Pairs share their file stem.
    Raises ValueError when the folder is missing or holds no such folders.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the folder that holds vi/ and ir/")
    dataset = dataset or _normalise(root.name)
    scenes: list[Scene] = []
    refused: list[Refused] = []
    jobs = []
    for name, vi_folder, ir_folder in _split_folders(root, split):
        pairs, unpaired = _pair_by_stem(vi_folder, ir_folder)
        refused += unpaired
        jobs += [(dataset, name, vi, ir) for vi, ir in pairs]
    with ThreadPoolExecutor() as pool:
        for done, outcome in enumerate(pool.map(lambda job: _check_pair(*job), jobs), start=1):
            if isinstance(outcome, Scene):
                scenes.append(outcome)
            else:
                refused.append(outcome)
            if on_progress:
                on_progress(done, len(jobs))
    unique, clashes = _without_clashes(scenes)
    return ScanResult(scenes=tuple(unique), refused=tuple(refused + clashes))


def check_refused_share(result: ScanResult, *, max_share: float) -> None:
    """Raise ValueError, naming the first files, when more than `max_share` of the pairs was refused."""
    total = len(result.scenes) + len(result.refused)
    if not result.scenes:
        raise ValueError(
            f"no usable pair: {describe_refused(result.refused) or 'the folders are empty'}"
        )
    if len(result.refused) > max_share * total:
        raise ValueError(
            f"{len(result.refused)} of {total} pairs refused, more than {max_share:.1%}: "
            f"{describe_refused(result.refused)}; mend the files or raise --max-refused-share"
        )


def describe_refused(refused: Sequence[Refused], *, most: int = 3) -> str:
    """One line that names the first `most` refused files with their reasons."""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in refused[:most])
    return shown + (f"; and {len(refused) - most} more" if len(refused) > most else "")


def write_scenes(result: ScanResult, path: Path) -> None:
    """Write the index as one Parquet file; what was refused travels in its metadata."""
    rows = [scene.model_dump() for scene in sorted(result.scenes, key=lambda scene: scene.id)]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    refused = ScanResult(scenes=(), refused=result.refused).model_dump_json()
    with whole_file(path) as stream:
        pq.write_table(table.replace_schema_metadata({"scan": refused}), stream)


def read_scenes(path: Path) -> ScanResult:
    """Read an index written by `write_scenes`. Raises ValueError when it is missing or not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such scene index; make one with python -m jobs.scan FOLDER")
    try:
        table = pq.read_table(path)
        refused = ScanResult.model_validate_json((table.schema.metadata or {})[b"scan"])
        scenes = tuple(Scene(**row) for row in table.to_pylist())
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a scene index ({error}); run jobs.scan again") from error
    return ScanResult(scenes=scenes, refused=refused.refused)


def scenes_of_split(scenes: Iterable[Scene], split: str) -> list[Scene]:
    """Return the scenes of one split, in order of id. Raises ValueError when there is none."""
    scenes = list(scenes)
    chosen = sorted((scene for scene in scenes if scene.split == split), key=lambda scene: scene.id)
    if not chosen:
        known = ", ".join(sorted({scene.split for scene in scenes})) or "none"
        raise ValueError(f"the index has no scene of split {split!r}; it has: {known}")
    return chosen


def load_pair(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Read a scene's pictures as they were scanned: VI uint8 H×W×3 RGB, IR uint8 H×W×1.

    Raises ValueError, naming the file, when it is gone or its bytes changed since the scan.
    """
    vi = decode_vi(_read_checked(scene.vi_uri, scene.vi_sha256), scene.vi_uri)
    ir = decode_ir(_read_checked(scene.ir_uri, scene.ir_sha256), scene.ir_uri)
    return vi, ir


def read_pair(vi_path: Path, ir_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read two files as a pair of equal size (as `load_pair`, without checksums)."""
    vi = decode_vi(_read_bytes(vi_path), str(vi_path))
    ir = decode_ir(_read_bytes(ir_path), str(ir_path))
    if vi.shape[:2] != ir.shape[:2]:
        raise ValueError(
            f"{vi_path}: VI is {vi.shape[1]}x{vi.shape[0]} but IR is {ir.shape[1]}x{ir.shape[0]}; "
            "register the pair to one size first"
        )
    return vi, ir


def pair_folders(vi_folder: Path, ir_folder: Path) -> tuple[list[tuple[Path, Path]], list[Refused]]:
    """Pair two folders by file stem; files without a partner are refused by name."""
    for folder in (vi_folder, ir_folder):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    return _pair_by_stem(vi_folder, ir_folder)


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path.read_bytes()


def _read_checked(uri: str, sha256: str) -> bytes:
    data = _read_bytes(Path(uri))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{uri}: changed since it was scanned; run jobs.scan again")
    return data


def _split_folders(root: Path, split: str) -> list[tuple[str, Path, Path]]:
    here = _modality_folders(root)
    if here:
        return [(split, *here)]
    below = [
        (_normalise(folder.name), *found)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and (found := _modality_folders(folder))
    ]
    if not below:
        raise ValueError(
            f"{root}: holds neither vi/ and ir/ nor split folders (train/, val/) with them"
        )
    return below


def _modality_folders(folder: Path) -> tuple[Path, Path] | None:
    children = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    vi = next((children[name] for name in VI_FOLDERS if name in children), None)
    ir = next((children[name] for name in IR_FOLDERS if name in children), None)
    if (vi is None) != (ir is None):
        present = vi or ir
        raise ValueError(
            f"{folder}: has {present.name if present else ''}/ but not its partner folder"
        )
    return (vi, ir) if vi and ir else None


def _pair_by_stem(
    vi_folder: Path, ir_folder: Path
) -> tuple[list[tuple[Path, Path]], list[Refused]]:
    vi_files, refused_vi = _images_by_stem(vi_folder)
    ir_files, refused_ir = _images_by_stem(ir_folder)
    refused = refused_vi + refused_ir
    for stem in sorted(vi_files.keys() ^ ir_files.keys()):
        path = vi_files.get(stem) or ir_files[stem]
        missing = "IR" if stem in vi_files else "VI"
        refused.append(Refused(path=str(path), reason=f"has no {missing} picture of the same name"))
    both = sorted(vi_files.keys() & ir_files.keys())
    return [(vi_files[stem], ir_files[stem]) for stem in both], refused


def _images_by_stem(folder: Path) -> tuple[dict[str, Path], list[Refused]]:
    found: dict[str, Path] = {}
    refused = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            refused.append(Refused(path=str(path), reason="not an image file (by its extension)"))
        elif path.stem in found:
            reason = f"second file of the stem {path.stem!r} beside {found[path.stem].name}"
            refused.append(Refused(path=str(path), reason=reason))
        else:
            found[path.stem] = path
    return found, refused


def _check_pair(dataset: str, split: str, vi_path: Path, ir_path: Path) -> Scene | Refused:
    try:
        vi, _ = read_pair(vi_path, ir_path)
    except ValueError as error:
        path, _, reason = str(error).partition(": ")
        return Refused(path=path, reason=reason)
    return Scene(
        id=_normalise(f"{dataset}-{split}-{vi_path.stem}"),
        dataset=dataset,
        split=split,
        vi_uri=str(vi_path.resolve()),
        ir_uri=str(ir_path.resolve()),
        width=vi.shape[1],
        height=vi.shape[0],
        vi_sha256=hashlib.sha256(vi_path.read_bytes()).hexdigest(),
        ir_sha256=hashlib.sha256(ir_path.read_bytes()).hexdigest(),
    )


def _without_clashes(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Refused]]:
    unique: dict[str, Scene] = {}
    clashes = []
    for scene in scenes:
        first = unique.setdefault(scene.id, scene)
        if first is not scene:
            reason = f"its scene id {scene.id!r} is taken by {first.vi_uri}; rename one"
            clashes.append(Refused(path=scene.vi_uri, reason=reason))
    return list(unique.values()), clashes


def _normalise(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "scene"


_SCHEMA = pa.schema(
    [
        (name, pa.int32() if field.annotation is int else pa.string())
        for name, field in Scene.model_fields.items()
    ]
)
