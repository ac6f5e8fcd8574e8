"""Index of registered IR/VI pairs: find them, check them, give each a name and a checksum.

A scene is one registered pair. Its split is decided here, by scene, never by variant.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from pipelines.sources.layouts import NOT_A_PICTURE, Refused, SourcePair, find_pairs, normalise
from pipelines.sources.pictures import as_ir, as_vi, decode, decode_ir, decode_vi, perceptual_hash
from pipelines.sources.source_paths import SourcePath
from pipelines.store.files import whole_file
from pipelines.store.names import nearest
from pipelines.store.seeding import digest_of

# The smallest picture that a network takes; smaller ones would fail long after the scan.
MIN_SIDE_PX = 16
_ROWS_AT_ONCE = 10_000


class Native(BaseModel):
    """A degraded variant that exists as a file: `member` is "vi_blur", "ir_stripe_noise", …"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    member: str
    uri: str
    sha256: str


class Scene(BaseModel):
    """One registered pair. Sizes in pixels; URIs are absolute paths.

    `natives` go into shards as they are; then the pair itself is the enhanced target.  Channels are
    the decoded file's (a palette counts as colour); an empty hash is one that was never made.
    """

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
    vi_channels: int = 3
    ir_channels: int = 1
    vi_phash: str = ""
    ir_phash: str = ""
    natives: tuple[Native, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of name and contents; where the files lie does not matter."""
        natives = [(native.member, native.sha256) for native in self.natives]
        return _digest(self.id, self.vi_sha256, self.ir_sha256, natives)


def _member(native: dict[str, str]) -> tuple[str, str]:
    return native["member"], native["sha256"]


def _digest(
    scene_id: str, vi_sha256: str, ir_sha256: str, natives: Sequence[tuple[str, str]]
) -> str:
    contents: list[object] = [scene_id, vi_sha256, ir_sha256]
    if natives:
        contents.append([list(native) for native in natives])
    return digest_of(contents)


class SceneTable(Sequence[Scene]):
    """Scenes as rows of an Arrow table, made one by one when they are asked for.

    A row takes 0.4 KB where a `Scene` takes four times that: an index may hold millions.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._columns = {name: self.table.column(name) for name in Scene.model_fields}

    @classmethod
    def of(cls, scenes: Iterable[Scene]) -> Self:
        """Make a table of scenes, in their order; one that is a table already is returned as it is."""
        if isinstance(scenes, cls):
            return scenes
        return cls(pa.Table.from_pylist([scene.model_dump() for scene in scenes], schema=_SCHEMA))

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, place: int) -> Scene: ...
    @overload
    def __getitem__(self, place: slice) -> SceneTable: ...
    def __getitem__(self, place: int | slice) -> Scene | SceneTable:
        if isinstance(place, slice):
            return SceneTable(self.table.take(pa.array(range(len(self))[place])))
        return Scene(**{name: column[place].as_py() for name, column in self._columns.items()})

    def ids(self) -> list[str]:
        """Names of all scenes, in order."""
        return self._columns["id"].to_pylist()

    def digests(self) -> list[str]:
        """Digests of all scenes, in order; a third of the time that the scenes themselves would take."""
        columns = self.table.select(["id", "vi_sha256", "ir_sha256", "natives"])
        # In batches: as Python objects, a million rows take more than the table itself.
        return [
            _digest(
                row["id"], row["vi_sha256"], row["ir_sha256"], list(map(_member, row["natives"]))
            )
            for batch in columns.to_batches(max_chunksize=_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        ]

    def pixels(self) -> np.ndarray:
        """Width times height of all scenes, in order."""
        sides = [self._columns[name].to_numpy() for name in ("width", "height")]
        return np.multiply(*sides, dtype=np.int64)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many scenes each data set has in each split, in order of name."""
        found: dict[str, dict[str, int]] = {}
        groups = self.table.group_by(["dataset", "split"]).aggregate([("id", "count")])
        for row in groups.sort_by([("dataset", "ascending"), ("split", "ascending")]).to_pylist():
            found.setdefault(row["dataset"], {})[row["split"]] = row["id_count"]
        return found

    def of_split(self, split: str, *, dataset: str | None = None) -> SceneTable:
        """Scenes of one split, and of one data set if so named, in order of id.

        Raises ValueError when there is none.
        """
        chosen = self.table.filter(pc.field("split") == split)
        if chosen.num_rows and dataset is not None:
            there = chosen.column("dataset").unique().to_pylist()
            chosen = chosen.filter(pc.field("dataset") == dataset)
            if not chosen.num_rows:
                raise ValueError(
                    f"split {split!r} of the index has no scene of data set {dataset!r}"
                    f"{nearest(dataset, there)}; it has: {', '.join(sorted(there))}"
                )
        if not chosen.num_rows:
            known = ", ".join(sorted(self._columns["split"].unique().to_pylist())) or "none"
            raise ValueError(f"the index has no scene of split {split!r}; it has: {known}")
        return SceneTable(chosen.sort_by("id"))


@dataclass(frozen=True)
class ScanResult:
    """What a scan found; `refused` names every file that was left out."""

    scenes: SceneTable
    refused: tuple[Refused, ...]


Read = Callable[[str], bytes]


def read_file(uri: str) -> bytes:
    """Read a source on disk; its URI is its path. Raises ValueError when it is not there."""
    path = Path(uri)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path.read_bytes()


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
    dataset = dataset or normalise(root.name)
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
            f"{describe_refused(bad)}; mend the files or raise {setting}"
        )


def describe_refused(refused: Sequence[Refused], *, most: int = 3) -> str:
    """One line that names the first `most` refused files with their reasons."""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in refused[:most])
    return shown + (f"; and {len(refused) - most} more" if len(refused) > most else "")


def write_scenes(result: ScanResult, path: Path) -> None:
    """Write the index as one Parquet file; what was refused travels in its metadata."""
    refused = _RefusedFiles(refused=result.refused).model_dump_json()
    table = result.scenes.table.sort_by("id").replace_schema_metadata({"scan": refused})
    with whole_file(path) as stream:
        pq.write_table(table, stream)


def read_scenes(path: Path) -> ScanResult:
    """Read an index written by `write_scenes`. Raises ValueError when it is missing or not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such scene index; make one with python -m jobs.scan FOLDER")
    try:
        table = pq.read_table(path)
        refused = _RefusedFiles.model_validate_json((table.schema.metadata or {})[b"scan"])
        scenes = SceneTable(table)
        if len(scenes):
            scenes[0]  # a table of other columns shows here, not on a worker
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a scene index ({error}); run jobs.scan again") from error
    return ScanResult(scenes=scenes, refused=refused.refused)


class _RefusedFiles(BaseModel):
    """What an index's metadata holds."""

    refused: tuple[Refused, ...]


def load_pair(scene: Scene, read: Read = read_file) -> tuple[np.ndarray, np.ndarray]:
    """Read a scene's pictures as they were scanned: VI uint8 H×W×3 RGB, IR uint8 H×W×1.

    Raises ValueError, naming the file, when it is gone or its bytes changed since the scan.
    """
    vi = decode_vi(_checked(read(scene.vi_uri), scene.vi_uri, scene.vi_sha256), scene.vi_uri)
    ir = decode_ir(_checked(read(scene.ir_uri), scene.ir_uri, scene.ir_sha256), scene.ir_uri)
    return vi, ir


@contextmanager
def fetched(scenes: Sequence[Scene], read: Read) -> Iterator[list[Scene]]:
    """Give the scenes with their pairs on this disk: remote ones as files that live in the block.

    They are the same scenes, by name and contents. Native variants stay where they are.
    """
    with tempfile.TemporaryDirectory(prefix="scenes-") as folder:

        def here(scene: Scene, camera: str, uri: str) -> str:
            if "://" not in uri:
                return uri
            path = Path(folder) / scene.id / camera / PurePosixPath(uri).name
            path.parent.mkdir(parents=True)
            path.write_bytes(read(uri))
            return str(path)

        yield [
            scene.model_copy(
                update={
                    "vi_uri": here(scene, "vi", scene.vi_uri),
                    "ir_uri": here(scene, "ir", scene.ir_uri),
                }
            )
            for scene in scenes
        ]


def read_pair(vi_uri: str, ir_uri: str, read: Read = read_file) -> tuple[np.ndarray, np.ndarray]:
    """Read two sources to fuse as a pair of equal size, uint8 or uint16 each."""
    vi = decode_vi(read(vi_uri), vi_uri, deep=True)
    ir = decode_ir(read(ir_uri), ir_uri, deep=True)
    _check_sizes(vi, ir, vi_uri)
    return vi, ir


def load_native(scene: Scene, member: str, read: Read = read_file) -> np.ndarray:
    """Read a native variant as it was scanned: uint8 H×W×3 RGB (VI) or H×W×1 (IR)."""
    native = next(native for native in scene.natives if native.member == member)
    data = _checked(read(native.uri), native.uri, native.sha256)
    return decode_vi(data, native.uri) if member.startswith("vi") else decode_ir(data, native.uri)


def _checked(data: bytes, uri: str, sha256: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{uri}: changed since it was scanned; run jobs.scan again")
    return data


def _check_pair(dataset: str, pair: SourcePair, read: Read) -> tuple[Scene | None, list[Refused]]:
    """Decode both files and every native; a bad file is refused by name, with its reason."""
    try:
        vi_data, ir_data = read(str(pair.vi)), read(str(pair.ir))
        vi, ir = decode(vi_data, str(pair.vi)), decode(ir_data, str(pair.ir))
        _check_sizes(as_vi(vi), as_ir(ir, str(pair.ir)), pair.vi)
        if min(vi.shape[:2]) < MIN_SIDE_PX:
            size = f"{vi.shape[1]}x{vi.shape[0]}"
            raise ValueError(
                f"{pair.vi}: {size} px is too small; {MIN_SIDE_PX} a side is the least"
            )
    except ValueError as error:
        return None, [_refusal(error)]
    natives, refused = _check_natives(pair, read, vi.shape[:2])
    scene = Scene(
        id=normalise(f"{dataset}-{pair.split}-{pair.stem}"),
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


def _check_sizes(vi: np.ndarray, ir: np.ndarray, vi_path: SourcePath | str) -> None:
    if vi.shape[:2] != ir.shape[:2]:
        raise ValueError(
            f"{vi_path}: VI is {vi.shape[1]}x{vi.shape[0]} but IR is {ir.shape[1]}x{ir.shape[0]}; "
            "register the pair to one size first"
        )


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
            reason = f"its scene id {scene.id!r} is taken by {first.vi_uri}; rename one"
            clashes.append(Refused(path=scene.vi_uri, reason=reason))
    return list(unique.values()), clashes


_NATIVES = pa.list_(pa.struct([(name, pa.string()) for name in Native.model_fields]))


def _column(name: str, annotation: object) -> tuple[str, pa.DataType]:
    if name == "natives":
        return name, _NATIVES
    return name, pa.int32() if annotation is int else pa.string()


_SCHEMA = pa.schema([_column(name, field.annotation) for name, field in Scene.model_fields.items()])
