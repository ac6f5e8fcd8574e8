"""Shards: one WebDataset tar each, a scene stored once, whole or absent.

Beside `<name>.tar` stands its marker `<name>.json`, written last: its presence means the shard is
whole. The same spec gives the same bytes, so doing it twice is harmless.
"""

from __future__ import annotations

import functools
import hashlib
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from importlib import metadata
from io import BufferedRandom

import webdataset as wds
from pydantic import BaseModel, ConfigDict

from pipelines.datasets.group_index import write_group_rows
from pipelines.datasets.plan import ShardSpec
from pipelines.datasets.shards.markers import ShardInfo, find_shard, marker_of, read_marker, tar_of
from pipelines.datasets.shards.picture_codecs import CODECS
from pipelines.datasets.shards.reading import ShardReader
from pipelines.datasets.shards.sample import SampleMeta, make_sample
from pipelines.sources.pairing import Refused
from pipelines.sources.scenes import Read, Scene, load_native, load_picture, read_file
from pipelines.store.folders import Folder

# Packages whose upgrade may change pixels, or the bytes that they are stored in.
LIBRARIES = ("albumentations", "numpy", "opencv-python-headless", "pyarrow", "zstandard")


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


def try_shard(
    spec: ShardSpec, root: Folder, read: Read = read_file
) -> WrittenShard | BadSourcesError:
    """Write the shard of `spec` below `root`, or find its marker when it is whole already.

    Retry-safe: the tar appears whole or not at all, the marker last. `read` fetches sources by URI. Where
    sources are bad all of them are returned: the other shards go on without. Raises ValueError when the
    address is taken by a shard of other bytes.
    """
    started_s = time.perf_counter(), time.process_time()
    if found := find_shard(root, spec.name):
        return _written(found, spec, 0, started_s)
    metas, num_copied = list[SampleMeta](), 0
    try:
        with root.create(tar_of(spec.name)) as stream, _open_older(spec, root) as older:
            with wds.TarWriter(stream, encoder=False, mtime=0) as tar:
                for scene in spec.scenes:
                    copies = _find_copies(scene, spec, older)
                    sample, meta = make_sample(scene, spec, read, copies)
                    tar.write(sample)
                    metas.append(meta)
                    num_copied += len(copies)
            copied = spec.older.libraries if spec.older and older else ()
            info = _describe(spec.name, stream, metas, {*libraries(), *copied})
            info = _find_marker(root, info) or info
    except ValueError:
        # One bad source was found: look for all. Another error stays itself.
        if bad := _find_bad_sources(spec.scenes, read):
            return bad
        raise
    write_group_rows(root, spec.name, metas)
    root.write_once(marker_of(spec.name), info.model_dump_json().encode())
    return _written(info, spec, num_copied, started_s)


def write_shard(spec: ShardSpec, root: Folder, read: Read = read_file) -> WrittenShard:
    """Write the shard of `spec` as `try_shard` does. Raises BadSourcesError where that returns one."""
    written = try_shard(spec, root, read)
    if isinstance(written, BadSourcesError):
        raise written
    return written


def _written(
    info: ShardInfo, spec: ShardSpec, num_copied: int, started_s: tuple[float, float]
) -> WrittenShard:
    return WrittenShard(
        info=info,
        pixels=sum(scene.width * scene.height for scene in spec.scenes),
        num_copied=num_copied,
        clock_s=time.perf_counter() - started_s[0],
        cpu_s=time.process_time() - started_s[1],
    )


def _find_bad_sources(scenes: Iterable[Scene], read: Read) -> BadSourcesError | None:
    """All pictures of the scenes that cannot be used, if there are any."""
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
    if not refused:
        return None
    return BadSourcesError(tuple(refused), tuple(dict.fromkeys(refused.values())))


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
    found = read_marker(root, info.name)
    if found.sha256 != info.sha256:
        raise ValueError(
            f"{root.uri}/{marker} speaks of other bytes than this code makes: its tar is gone, and "
            "packages or kernels changed since; delete the marker to let the new bytes stand"
        )
    return found


def _find_copies(scene: Scene, spec: ShardSpec, older: ShardReader | None) -> dict[str, bytes]:
    """Bytes of an older shard's members of a scene that would be made just so again."""
    if older is None or spec.older is None:
        return {}
    suffix, _ = CODECS[spec.config.image_codec]
    members = {f"{member}.{suffix}": member for member in spec.older.members}
    return {members[field]: data for field, data in older.encoded(scene.id, members).items()}
