"""Shards: one WebDataset tar each, a scene stored once, whole or absent. The sample schema lives here.

A scene is the sample `<id>`:

    <id>.vi_gt.npy.zst     <id>.ir_gt.npy.zst           the clean pair, uint8 H×W×C (or .png)
    <id>.vi_blur.npy.zst   <id>.ir_stripe_noise.npy.zst each variant
    <id>.vi_clean.npy.zst  <id>.ir_clean.npy.zst        a native undegraded input, unlike its target
    <id>.json              SampleMeta: sizes, degradation records, contrastive groups

A scene with one camera has that camera's fields only, and no groups.

Beside `<name>.tar` stands its marker `<name>.json`, written last: its presence means the shard is
whole. The same spec gives the same bytes, so doing it twice is harmless.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import struct
import tarfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from importlib import metadata
from io import BufferedRandom
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import pyarrow as pa
import webdataset as wds
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from degradations.catalogue import CLEAN, Modality
from degradations.chain import Applied, apply_and_record, draw_chain
from degradations.own import parts_of
from pipelines.datasets.groups import Group, draw_groups, members_of
from pipelines.datasets.index import write_rows
from pipelines.datasets.plan import SCHEMA_VERSION, ShardConfig, ShardSpec
from pipelines.datasets.row_strips import decode_rows, encode_strips
from pipelines.sources.pairing import Refused
from pipelines.sources.pictures import MOST_PIXELS, decode_ir, decode_vi, encode_png
from pipelines.sources.scenes import Read, Scene, load_native, load_picture, read_file
from pipelines.store.folders import Folder
from pipelines.store.seeding import rng_at

SHARDS = "shards/"
# Packages whose upgrade may change pixels, or the bytes that they are stored in.
LIBRARIES = ("albumentations", "numpy", "opencv-python-headless", "pyarrow", "zstandard")
# Markers are small files: on a remote store their time is the round trip.
_PARALLEL_READS = 16
_MEMBER = re.compile(r"[a-z0-9_-]+\.[A-Za-z0-9._+-]+")
_LONGEST_META = 2**24
# Of a picture in a shard that somebody made by hand, whichever way it is not one.
_NOT_A_PICTURE = (ValueError, OSError, EOFError, IndexError, struct.error, SyntaxError, MemoryError)


class SampleMeta(BaseModel):
    """The `<id>.json` of a sample. `variants` maps a member ("vi_blur") to its record.

    A scene with one camera has None for the digest of the other, and members of its own camera only.
    `natives` maps the members that were files already to their sha256; without any it is left out,
    so that the samples of other sources keep their bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    dataset: str
    split: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    vi_sha256: str | None
    ir_sha256: str | None
    variants: dict[str, tuple[Applied, ...]]
    groups: tuple[Group, ...]
    natives: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_a_size_that_fits(self) -> Self:
        if self.width * self.height > MOST_PIXELS:
            raise ValueError(f"{self.width}x{self.height}: {MOST_PIXELS} pixels are the most")
        if not self.cameras:
            raise ValueError(f"{self.id}: it has neither a visible nor an infrared picture")
        return self

    @property
    def cameras(self) -> tuple[Modality, ...]:
        """The cameras that it has pictures of, "vi" first."""
        vi: tuple[Modality, ...] = () if self.vi_sha256 is None else ("vi",)
        return vi if self.ir_sha256 is None else (*vi, "ir")

    @property
    def num_images(self) -> int:
        """Pictures that the shard stores of it."""
        return len(self.cameras) + len(self.variants) + len(self.natives)

    def chain(self, member: str) -> tuple[Applied, ...]:
        """What was done to a picture ("vi_blur"), nothing to a clean one.

        Raises ValueError for a native file: what was done to it was not recorded.
        """
        if member in self.natives:
            raise ValueError(f"{member} is a native file; no record says what was done to it")
        return () if _is_clean(member) else self.variants[member]


class ShardInfo(BaseModel):
    """The marker of a shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Both become parts of paths.
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int
    num_scenes: int
    num_groups: int
    num_images: int
    # Packages that made its bytes, "numpy==2.4.6"; two of one name where parts were copied.
    libraries: tuple[str, ...]


class WrittenShard(BaseModel):
    """A shard's marker, and what writing it took: seconds of the clock and the CPU, for so many pixels.

    Of its pictures, `num_copied` came from a shard of an earlier version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ShardInfo
    pixels: int
    num_copied: int
    clock_s: float
    cpu_s: float


class BadSourcesError(ValueError):
    """Sources of a shard that cannot be used: `refused` names each, `scene_ids` their scenes."""

    def __init__(self, refused: tuple[Refused, ...], scene_ids: tuple[str, ...]) -> None:
        # What an exception is made of is what travels between processes.
        super().__init__(refused, scene_ids)
        self.refused, self.scene_ids = refused, scene_ids

    def __str__(self) -> str:
        return "; ".join(f"{item.path}: {item.reason}" for item in self.refused)


def write_shard(spec: ShardSpec, root: Folder, read: Read = read_file) -> WrittenShard:
    """Write the shard of `spec` below `root`, or find its marker when it is whole already.

    Retry-safe: the tar appears whole or not at all, the marker last. `read` fetches sources by URI.
    Raises BadSourcesError, which names all of them, when sources are bad; ValueError when the address
    is taken by a shard of other bytes.
    """
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    info, num_copied = find_shard(root, spec.name), 0
    if info is None:
        with root.create(tar_of(spec.name)) as stream, _open_older(spec, root) as older:
            metas = []
            with (
                wds.TarWriter(stream, encoder=False, mtime=0) as tar,
                _bad_sources_named(spec.scenes, read),
            ):
                for scene in spec.scenes:
                    found = _find_copies(scene, spec, older)
                    sample, meta = make_sample(scene, spec, read, found)
                    tar.write(sample)
                    metas.append(meta)
                    num_copied += len(found)
            copied = spec.older.libraries if spec.older and older else ()
            info = _describe(spec.name, stream, metas, {*libraries(), *copied})
            info = _find_marker(root, info) or info
        write_rows(root, spec.name, metas)
        root.write_once(marker_of(spec.name), info.model_dump_json().encode())
    return WrittenShard(
        info=info,
        pixels=sum(scene.width * scene.height for scene in spec.scenes),
        num_copied=num_copied,
        clock_s=time.perf_counter() - clock_s,
        cpu_s=time.process_time() - cpu_s,
    )


def try_shard(
    spec: ShardSpec, root: Folder, read: Read = read_file
) -> WrittenShard | BadSourcesError:
    """Write the shard of `spec`, or return what is wrong with its sources: the others go on without."""
    try:
        return write_shard(spec, root, read)
    except BadSourcesError as error:
        return error


@contextmanager
def _bad_sources_named(scenes: Iterable[Scene], read: Read) -> Iterator[None]:
    """Where the block finds one bad source, look for all; another error of the block stays itself."""
    try:
        yield
    except ValueError:
        _check_sources(scenes, read)
        raise


def _check_sources(scenes: Iterable[Scene], read: Read) -> None:
    """Raise BadSourcesError if any picture of the scenes cannot be used."""
    refused: dict[Refused, str] = {}
    for scene in scenes:
        loads = {
            scene.source(camera)[0]: partial(load_picture, scene, camera, read)
            for camera in scene.cameras
        }
        for native in scene.natives:
            loads[native.uri] = partial(load_native, scene, native.member, read)
        for uri, load in loads.items():
            try:
                load()
            except ValueError as error:
                refused[Refused(path=uri, reason=str(error).removeprefix(f"{uri}: "))] = scene.id
    if refused:
        raise BadSourcesError(tuple(refused), tuple(dict.fromkeys(refused.values())))


@contextmanager
def _open_older(spec: ShardSpec, root: Folder) -> Iterator[ShardReader | None]:
    """The shard to copy from; None, with a warning, when it is gone or damaged."""
    reader = None
    if spec.older:
        try:
            with root.checked(tar_of(spec.older.name), spec.older.sha256) as path:
                reader = ShardReader.open(path)
        except ValueError as error:
            warnings.warn(f"nothing is copied into {spec.name} ({error})", stacklevel=2)
    with closing(reader) if reader else nullcontext():
        yield reader


@functools.cache
def libraries() -> tuple[str, ...]:
    """The packages that draw, decode and encode pixels, in the versions of this process."""
    return tuple(f"{name}=={metadata.version(name)}" for name in LIBRARIES)


def _describe(
    name: str, stream: BufferedRandom, metas: Sequence[SampleMeta], made_with: Iterable[str]
) -> ShardInfo:
    num_bytes = stream.tell()
    stream.seek(0)
    return ShardInfo(
        name=name,
        sha256=hashlib.file_digest(stream, "sha256").hexdigest(),
        num_bytes=num_bytes,
        num_scenes=len(metas),
        num_groups=sum(len(meta.groups) for meta in metas),
        num_images=sum(meta.num_images for meta in metas),
        libraries=tuple(sorted(made_with)),
    )


def _find_marker(root: Folder, info: ShardInfo) -> ShardInfo | None:
    """Before the tar takes its name: a marker that lost its tar must describe these bytes."""
    marker = marker_of(info.name)
    if root.size_of(marker) is None:
        return None
    found = _read_marker(root, info.name)
    if found.sha256 != info.sha256:
        raise ValueError(
            f"{root.uri}/{marker} speaks of other bytes than this code makes: its tar is gone, and "
            "packages or kernels changed since; delete the marker to let the new bytes stand"
        )
    return found


def tar_of(name: str) -> str:
    """Where below its root a shard lies."""
    return f"{SHARDS}{name}.tar"


def marker_of(name: str) -> str:
    """Where below its root a shard's marker lies."""
    return f"{SHARDS}{name}.json"


def find_shard(root: Folder, name: str) -> ShardInfo | None:
    """Return the marker of a shard that is whole, None when there is none (or its tar is gone)."""
    size = root.size_of(tar_of(name))
    if size is None or root.size_of(marker_of(name)) is None:
        return None
    info = _read_marker(root, name)
    return info if size == info.num_bytes else None


def find_shards(root: Folder, names: Iterable[str]) -> dict[str, ShardInfo]:
    """Markers of those shards that are whole, by name: one listing, then the markers in parallel."""
    sizes = {entry.name: entry.num_bytes for entry in root.entries(SHARDS)}
    listed = [name for name in names if tar_of(name) in sizes and marker_of(name) in sizes]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        infos = pool.map(lambda name: _read_marker(root, name), listed)
        return {info.name: info for info in infos if sizes[tar_of(info.name)] == info.num_bytes}


def _read_marker(root: Folder, name: str) -> ShardInfo:
    try:
        return ShardInfo.model_validate_json(root.read(marker_of(name)))
    except ValidationError as error:
        raise ValueError(f"{root.uri}/{marker_of(name)}: not a marker ({error})") from error


def open_shard(root: Folder, info: ShardInfo) -> ShardReader:
    """Open a shard. Raises ValueError when its bytes are not those of its marker.

    A remote one is read through `root`'s cache, or a temporary file where it has none; the file is
    held there until the reader is closed.
    """
    with ExitStack() as stack:
        path = stack.enter_context(root.checked(tar_of(info.name), info.sha256))
        reader = ShardReader.open(path, shown=f"{root.uri}/{tar_of(info.name)}")
        reader.closing = stack.pop_all()
    return reader


def make_sample(
    scene: Scene,
    spec: ShardSpec,
    read: Read = read_file,
    copied: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[dict[str, str | bytes], SampleMeta]:
    """Degrade one scene in every way its spec names; return the WebDataset sample and its meta.

    Members that are `copied`, by name, are taken as they are.
    """
    suffix, encode = _CODECS[spec.config.image_codec]

    @functools.cache
    def target(camera: Modality) -> np.ndarray:
        member = f"{camera}_gt"
        if member not in copied:
            return load_picture(scene, camera, read)
        channels = 3 if camera == "vi" else 1
        shape = (scene.height, scene.width, channels)
        return _decode(copied[member], f"{member}.{suffix}", shape)

    pictures = dict(copied)
    for camera in scene.cameras:
        if f"{camera}_gt" not in copied:
            pictures[f"{camera}_gt"] = encode(target(camera))
    natives = _add_natives(pictures, scene, spec.config, read, target)
    variants = _draw_variants(scene, spec.config)
    for member in variants.keys() - copied.keys():
        camera = _camera_of(member)
        degraded, variants[member] = apply_and_record(
            _to_float(target(camera)), camera, variants[member]
        )
        pictures[member] = encode(_to_uint8(degraded))
    meta = SampleMeta(
        **scene.model_dump(
            include={"id", "dataset", "split", "width", "height", "vi_sha256", "ir_sha256"}
        ),
        variants=variants,
        groups=tuple(draw_groups(scene, spec.scenes, spec.config)),
        natives=natives,
    )
    text = meta.model_dump_json(exclude=None if natives else {"natives"})
    # WebDataset appends fields in sorted order; `__key__` is the prefix of every member.
    fields = {f"{member}.{suffix}": data for member, data in pictures.items()}
    return {"__key__": scene.id, **fields, "json": text.encode()}, meta


def _find_copies(scene: Scene, spec: ShardSpec, older: ShardReader | None) -> dict[str, bytes]:
    """Bytes of an older shard's members of a scene that would be made just so again."""
    if older is None or spec.older is None:
        return {}
    suffix, _ = _CODECS[spec.config.image_codec]
    members = {f"{member}.{suffix}": member for member in spec.older.members}
    return {members[field]: data for field, data in older.encoded(scene.id, members).items()}


def _add_natives(
    pictures: dict[str, bytes],
    scene: Scene,
    config: ShardConfig,
    read: Read,
    target: Callable[[Modality], np.ndarray],
) -> dict[str, str]:
    """Add each native variant that the recipe names; return the sha256 of those that are stored.

    A clean input that is the stored target itself is not.
    """
    _, encode = _CODECS[config.image_codec]
    natives = {native.member: native for native in scene.natives}
    stored = {}
    for member in members_of(config, scene.cameras):
        if member not in natives:
            continue
        if member not in pictures:
            picture = load_native(scene, member, read)
            if _is_clean(member) and np.array_equal(picture, target(_camera_of(member))):
                continue
            pictures[member] = encode(picture)
        stored[member] = natives[member].sha256
    return stored


def _draw_variants(scene: Scene, config: ShardConfig) -> dict[str, tuple[Applied, ...]]:
    """The record of each variant that is not clean and no native file."""
    variants = {}
    natives = [native.member for native in scene.natives]
    for member in members_of(config, scene.cameras):
        if member not in natives and not _is_clean(member):
            camera, names = _camera_of(member), parts_of(member.partition("_")[2])
            rng = rng_at(config.seed, scene.digest, member)
            ranges, own = config.ranges(camera), config.own.of(camera)
            variants[member] = draw_chain(camera, names, rng, ranges=ranges, own=own)
    return variants


def _camera_of(member: str) -> Modality:
    return "vi" if member.startswith("vi") else "ir"


def _is_clean(member: str) -> bool:
    return member.endswith(f"_{CLEAN}")


def _to_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(image * np.float32(255)).astype(np.uint8)


_CODECS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "png": ("png", encode_png),
    "strips": ("npy.zst", encode_strips),
}


def _decode(data: bytes, field: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a picture of H×W×C; whatever claims to be more is refused before memory is taken for it."""
    height, width, channels = shape
    if field.endswith(".npy.zst"):
        most = height * width * channels + np.lib.format.BUFFER_SIZE // 16  # pixels, and a header
        raw = pa.input_stream(pa.BufferReader(data), compression="zstd").read(most)
        stream = io.BytesIO(raw)
        np.lib.format.read_magic(stream)
        described = np.lib.format.read_array_header_1_0(stream)
        if described != (shape, False, np.dtype(np.uint8)):
            raise ValueError(f"it holds {described}")
        return np.load(io.BytesIO(raw), allow_pickle=False)
    decode = decode_vi if field.startswith("vi") else decode_ir
    image = decode(data, field, most_pixels=height * width)
    if image.shape != shape:
        raise ValueError(f"it holds {image.shape}")
    return image


def _check_member(member: tarfile.TarInfo, num_bytes: int) -> tuple[str, str]:
    """Scene and field of a member. Raises ValueError when it is no plain file of a sample."""
    if not _MEMBER.fullmatch(member.name):
        raise ValueError(f"{member.name!r} is not a member of a sample")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise ValueError(f"{member.name} is a link or a device, not a plain file")
    if member.size < 0 or member.offset_data + member.size > num_bytes:
        raise ValueError(f"{member.name} claims {member.size} bytes, the file has {num_bytes}")
    scene, _, field = member.name.partition(".")
    return scene, field


class ShardReader:
    """Random access to the samples of one shard on disk, by offset; safe to share between threads."""

    def __init__(self, file: int, index: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        self._file = file
        self._index = index
        # What is let go of when the reader is closed.
        self.closing = ExitStack()
        self.metas = {scene: self._meta(scene) for scene in index}

    @classmethod
    def open(cls, path: Path, *, shown: str | None = None) -> Self:
        """Index the tar of one shard, which errors call `shown`. Raises ValueError when it is not whole.

        Nothing is extracted, and nothing read that a member's header only claims to be there.
        """
        index: dict[str, dict[str, tuple[int, int]]] = {}
        shown = shown or str(path)
        try:
            num_bytes = path.stat().st_size
            with tarfile.open(path, mode="r:") as tar:
                for member in tar:
                    scene, field = _check_member(member, num_bytes)
                    if field in index.setdefault(scene, {}):
                        raise ValueError(f"it has {member.name} twice")
                    index[scene][field] = (member.offset_data, member.size)
            file = os.open(path, os.O_RDONLY)
        except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
            raise ValueError(f"{shown}: not a readable shard ({error})") from error
        try:
            return cls(file, index)
        except (OSError, KeyError, ValueError) as error:
            os.close(file)
            raise ValueError(f"{shown}: not a readable shard ({error})") from error

    def image(self, scene: str, member: str, *, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Return a member ("vi_blur", "ir_clean", "vi_gt", …) as uint8 H×W×C.

        `rows` [first, end) cuts it, and spares the other rows where the codec is "strips".
        """
        field = self._field(scene, member)
        if field is None:
            raise ValueError(f"sample {scene!r} has no picture {member!r}")
        meta = self.metas[scene]
        shape = (meta.height, meta.width, 3 if member.startswith("vi") else 1)
        try:
            return self._decode(scene, field, rows, shape)
        except _NOT_A_PICTURE as error:
            raise ValueError(
                f"sample {scene!r}: {field} is not a picture of {shape} ({error})"
            ) from error

    def _decode(
        self,
        scene: str,
        field: str,
        rows: tuple[int, int] | None,
        shape: tuple[int, int, int],
    ) -> np.ndarray:
        if rows and field.endswith(".npy.zst"):
            offset, size = self._index[scene][field]
            part = decode_rows(
                lambda at, count: os.pread(self._file, max(0, min(count, size - at)), offset + at),
                size,
                rows,
                shape=shape,
            )
            if part is not None:
                return part
        whole = _decode(self._read(scene, field), field, shape)
        return whole[slice(*rows)] if rows else whole

    def has_image(self, scene: str, member: str) -> bool:
        """Whether `image` would find something to decode."""
        return self._field(scene, member) is not None

    def encoded(self, scene: str, fields: Iterable[str] | None = None) -> dict[str, bytes]:
        """The bytes of those `fields` ("vi_blur.png"; None: all) that a scene has, as they are stored."""
        index = self._index.get(scene, {})
        chosen = index if fields is None else fields
        return {field: self._read(scene, field) for field in chosen if field in index}

    def bytes_by_member(self) -> dict[str, int]:
        """Bytes that the pictures of each member take in this shard, over all scenes."""
        totals: dict[str, int] = {}
        for fields in self._index.values():
            for field, (_, size) in fields.items():
                if field != "json":
                    member = field.partition(".")[0]
                    totals[member] = totals.get(member, 0) + size
        return totals

    def _field(self, scene: str, member: str) -> str | None:
        modality, _, name = member.partition("_")
        # The undegraded input is the target, but where a source brought an input of its own.
        for stem in (member, f"{modality}_gt") if name == CLEAN else (member,):
            for suffix in ("npy.zst", "png"):
                if f"{stem}.{suffix}" in self._index.get(scene, ()):
                    return f"{stem}.{suffix}"
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        self.closing.close()

    def _meta(self, scene: str) -> SampleMeta:
        if self._index[scene]["json"][1] > _LONGEST_META:
            raise ValueError(f"{scene}.json is longer than {_LONGEST_META} bytes")
        meta = SampleMeta.model_validate_json(self._read(scene, "json"))
        if meta.id != scene:
            raise ValueError(f"{scene}.json is the one of {meta.id!r}")
        if meta.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"{scene}.json has schema {meta.schema_version}, this code reads {SCHEMA_VERSION}; "
                "run jobs.generate again"
            )
        return meta

    def _read(self, scene: str, field: str) -> bytes:
        offset, size = self._index[scene][field]
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise ValueError(f"sample {scene!r}: field {field} is cut short")
        return data
