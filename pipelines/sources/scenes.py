"""A scene: one registered pair, or the picture of one camera, by name, URIs and checksums.

The split of a scene is decided when it is scanned, by scene, never by variant.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degradations.catalogue import Modality
from pipelines.checks.depth import Window, apply_window
from pipelines.checks.targets import Quality
from pipelines.sources.pictures import (
    BOTH_CAMERAS,
    as_ir,
    as_vi,
    check_sizes,
    decode,
    decode_both,
    decode_source,
)
from pipelines.store.names import nearest
from pipelines.store.seeding import digest_of

_ROWS_AT_ONCE = 10_000


class Native(BaseModel):
    """A degraded variant that exists as a file: `member` is "vi_blur", "ir_stripe_noise", …"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    member: str
    uri: str
    sha256: str


class Scene(BaseModel):
    """One registered pair, or one camera's picture. Sizes in pixels; URIs are absolute paths.

    A scene with one camera (of restoration sets) has None for URI and sha256 of the other.
    `natives` go into shards as they are; then the pair itself is the enhanced target.  Channels are
    the decoded file's (a palette counts as colour; four are both cameras in one file); an empty
    perceptual hash was never computed. A window is that of a camera with more than 8 bits. The stamp is
    what the scan went by, files and rules: one that comes to the same need not read them again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # No dot: WebDataset cuts a sample's key at the first one and would merge scenes.
    id: str = Field(pattern=r"^[a-z0-9_-]+$")
    dataset: str
    split: str
    vi_uri: str | None = None
    ir_uri: str | None = None
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    vi_sha256: str | None = None
    ir_sha256: str | None = None
    vi_channels: int = 3
    ir_channels: int = 1
    vi_phash: str = ""
    ir_phash: str = ""
    vi_window: Window | None = None
    ir_window: Window | None = None
    quality: Quality | None = None
    stamp: str = ""
    natives: tuple[Native, ...] = ()

    @model_validator(mode="after")
    def _has_a_camera(self) -> Self:
        for camera in ("vi", "ir"):
            uri, sha256 = getattr(self, f"{camera}_uri"), getattr(self, f"{camera}_sha256")
            if (uri is None) != (sha256 is None):
                raise ValueError(f"{self.id}: {camera}_uri and {camera}_sha256 go together")
        if not self.cameras:
            raise ValueError(f"{self.id}: a scene has a visible or an infrared picture, or both")
        lost = [item.member for item in self.natives if not item.member.startswith(self.cameras)]
        if lost:
            raise ValueError(
                f"{self.id}: native {lost[0]} of a camera that the scene does not have"
            )
        return self

    @property
    def cameras(self) -> tuple[Modality, ...]:
        """The cameras that it has a picture of, "vi" first."""
        vi: tuple[Modality, ...] = () if self.vi_uri is None else ("vi",)
        return vi if self.ir_uri is None else (*vi, "ir")

    def source(self, camera: Modality) -> tuple[str, str]:
        """URI and sha256 of a camera's file. Raises ValueError when the scene has none."""
        uri, sha256 = (
            (self.vi_uri, self.vi_sha256) if camera == "vi" else (self.ir_uri, self.ir_sha256)
        )
        if uri is None or sha256 is None:
            raise ValueError(
                f"scene {self.id!r} has no {camera} picture; scenes with one camera are for sampler "
                '"singles" only'
            )
        return uri, sha256

    @property
    def digest(self) -> str:
        """Digest of name and contents; where the files lie does not matter."""
        return _digest(self.model_dump(include={*_DECIDING}))


# What of a scene decides the bytes that are made of it.
_DECIDING = ("id", "vi_sha256", "ir_sha256", "natives", "vi_window", "ir_window")


def _digest(row: Mapping[str, Any]) -> str:
    contents: list[object] = [row["id"], row["vi_sha256"], row["ir_sha256"]]
    if row["natives"]:
        contents.append([[native["member"], native["sha256"]] for native in row["natives"]])
    if row["vi_window"] or row["ir_window"]:
        contents.append({"windows": [row["vi_window"], row["ir_window"]]})
    return digest_of(contents)


class SceneTable(Sequence[Scene]):
    """Scenes as rows of an Arrow table; a `Scene` is built when it is indexed.

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
        columns = self.table.select([*_DECIDING])
        # In batches: as Python objects, a million rows take more than the table itself.
        return [
            _digest(row)
            for batch in columns.to_batches(max_chunksize=_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        ]

    def are_pairs(self) -> np.ndarray:
        """Whether each scene has both cameras, in order."""
        both = pc.and_(*(self._columns[name].is_valid() for name in ("vi_uri", "ir_uri")))
        return both.to_numpy()

    def pixels(self) -> np.ndarray:
        """Width times height of all scenes, in order."""
        sides = [self._columns[name].to_numpy() for name in ("width", "height")]
        return np.multiply(*sides, dtype=np.int64)

    def windows(self, camera: str) -> list[Window]:
        """The windows that scenes have for a camera of more than 8 bits, each once."""
        column = self._columns[f"{camera}_window"].combine_chunks().drop_null()
        fields = pa.table(column.flatten(), names=[*Window.model_fields])
        found = fields.group_by(fields.column_names).aggregate([]).to_pylist()
        return [Window.model_validate(row) for row in found]

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

    def without(self, ids: Collection[str]) -> SceneTable:
        """All scenes but those of some ids."""
        if not ids:
            return self
        return SceneTable(self.table.filter(~pc.field("id").isin([*ids])))


_WINDOW = pa.struct([("dtype", pa.string()), ("low", pa.float64()), ("high", pa.float64())])
_STRUCTURED = {
    "natives": pa.list_(pa.struct([(name, pa.string()) for name in Native.model_fields])),
    "vi_window": _WINDOW,
    "ir_window": _WINDOW,
    "quality": pa.struct([(name, pa.float64()) for name in Quality.model_fields]),
}


def _column(name: str, annotation: object) -> tuple[str, pa.DataType]:
    return name, _STRUCTURED.get(name, pa.int32() if annotation is int else pa.string())


_SCHEMA = pa.schema([_column(name, field.annotation) for name, field in Scene.model_fields.items()])


Read = Callable[[str], bytes]


def read_file(uri: str) -> bytes:
    """Read a source on disk; its URI is its path. Raises ValueError when it is not there."""
    path = Path(uri)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path.read_bytes()


def load_picture(scene: Scene, camera: Modality, read: Read = read_file) -> np.ndarray:
    """Read a camera's picture as it was scanned: uint8 H×W×3 RGB (VI) or H×W×1 (IR).

    Raises ValueError, naming the file, when it is gone or its bytes changed since the scan.
    """
    uri, sha256 = scene.source(camera)
    both = scene.ir_channels == BOTH_CAMERAS
    picture = _load(uri, sha256, camera, _window(scene, camera), read, both=both)
    if picture.shape[:2] != (scene.height, scene.width):
        raise ValueError(
            f"{uri}: is {picture.shape[1]}x{picture.shape[0]}, and its index says "
            f"{scene.width}x{scene.height}; run jobs.scan again"
        )
    return picture


def load_pair(scene: Scene, read: Read = read_file) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures of a scene, VI first; raises ValueError when it has one camera only."""
    return load_picture(scene, "vi", read), load_picture(scene, "ir", read)


def load_native(scene: Scene, member: str, read: Read = read_file) -> np.ndarray:
    """Read a native variant as it was scanned: uint8 H×W×3 RGB (VI) or H×W×1 (IR)."""
    native = next(native for native in scene.natives if native.member == member)
    camera: Modality = "vi" if member.startswith("vi") else "ir"
    return _load(native.uri, native.sha256, camera, _window(scene, camera), read)


def _window(scene: Scene, camera: Modality) -> Window | None:
    return scene.vi_window if camera == "vi" else scene.ir_window


def _load(
    uri: str,
    sha256: str,
    camera: Modality,
    window: Window | None,
    read: Read,
    *,
    both: bool = False,
) -> np.ndarray:
    data = read(uri)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{uri}: changed since it was scanned; run jobs.scan again")
    stored = decode_both(data, uri) if both else decode(data, uri)
    image = apply_window(stored, window, uri)
    return as_vi(image) if camera == "vi" else as_ir(image, uri)


@contextmanager
def fetched_scenes(scenes: Sequence[Scene], read: Read) -> Iterator[list[Scene]]:
    """Give the scenes with their pictures on this disk: remote ones as files that live in the block.

    They are the same scenes, by name and contents. Native variants stay where they are.
    """
    with tempfile.TemporaryDirectory(prefix="scenes-") as folder:

        def here(scene: Scene, camera: Modality) -> str:
            uri, _ = scene.source(camera)
            if "://" not in uri:
                return uri
            path = Path(folder) / scene.id / camera / PurePosixPath(uri).name
            path.parent.mkdir(parents=True)
            path.write_bytes(read(uri))
            return str(path)

        yield [
            scene.model_copy(
                update={f"{camera}_uri": here(scene, camera) for camera in scene.cameras}
            )
            for scene in scenes
        ]


def read_pair(
    vi_uri: str,
    ir_uri: str,
    read: Read = read_file,
    *,
    vi_window: Window | None = None,
    ir_window: Window | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read two sources to fuse as a pair of equal size, uint8 or uint16 each.

    The same URI twice is a picture that holds both cameras. Raises ValueError for what is damaged, of
    another depth than its folder's (which the windows tell), or of another size than its partner.
    """
    both = vi_uri == ir_uri
    vi, ir = (
        apply_window(decode_source(read(uri), uri, both=both), window, uri, deep=True)
        for uri, window in ((vi_uri, vi_window), (ir_uri, ir_window))
    )
    check_sizes(vi, ir, vi_uri)
    return as_vi(vi), as_ir(ir, ir_uri)
