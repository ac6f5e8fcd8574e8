"""Random access to the samples of a shard. What somebody made by hand may hold anything."""

from __future__ import annotations

import os
import re
import struct
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from degradations.catalogue import CLEAN
from pipelines.datasets.plan import SCHEMA_VERSION
from pipelines.datasets.shards.markers import ShardInfo, tar_of
from pipelines.datasets.shards.picture_codecs import decode_stored
from pipelines.datasets.shards.row_strips import decode_rows
from pipelines.datasets.shards.sample import SampleMeta
from pipelines.store.folders import Folder

_MEMBER = re.compile(r"[a-z0-9_-]+\.[A-Za-z0-9._+-]+")


_LONGEST_META = 2**24


# Of a picture in a shard that somebody made by hand, whichever way it is not one.
_NOT_A_PICTURE = (ValueError, OSError, EOFError, IndexError, struct.error, SyntaxError, MemoryError)


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
        whole = decode_stored(self._read(scene, field), field, shape)
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
