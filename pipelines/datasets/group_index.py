"""What a version's samples are, without opening a shard: a Parquet file beside its manifest.

<root>/shards/<name>.parquet       the rows of one shard, beside its marker
<root>/versions/<version>.parquet  those of all its shards, with a column `shard`

A row is a scene: its id, the degradations of the two anchors of each of its groups (`vi` and `ir`, lists
of one length), the members that are stored of it (`pictures`, of which `natives` were files already).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from degradations.catalogue import CLEAN
from pipelines.datasets.shards.sample import SampleMeta
from pipelines.store.folders import Folder
from pipelines.store.names import check_name

_NAMES = pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("vi", _NAMES),
        ("ir", _NAMES),
        ("pictures", _NAMES),
        ("natives", _NAMES),
    ]
)
_PARALLEL_READS = 16


def rows_of(metas: Iterable[SampleMeta]) -> pa.Table:
    """The rows of a shard's scenes, in order of id: that of the samples."""
    rows = [
        {
            "scene": meta.id,
            "vi": [group.vi for group in meta.groups],
            "ir": [group.ir for group in meta.groups],
            "pictures": pictures_of(meta),
            "natives": sorted(meta.natives),
        }
        for meta in sorted(metas, key=lambda meta: meta.id)
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def pictures_of(meta: SampleMeta) -> list[str]:
    """Every input picture of a scene once, infrared first: "ir_clean", "ir_…", "vi_clean", …"""
    members = [*meta.variants, *sorted(meta.natives)]
    pictures: list[str] = []
    for camera in sorted(meta.cameras):
        own = [member for member in members if member.startswith(f"{camera}_")]
        pictures += dict.fromkeys([f"{camera}_{CLEAN}", *own])
    return pictures


def write_group_rows(root: Folder, shard: str, metas: Iterable[SampleMeta]) -> None:
    """Write the rows of a shard beside it; before its marker, which says that all is there."""
    root.replace(_rows_at(shard), _to_parquet(rows_of(metas)))


def publish_index(root: Folder, version: str, shards: Sequence[str]) -> None:
    """Write the index of a version, its shards in this order. Raises ValueError when rows are missing."""
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        parts = list(pool.map(lambda shard: _read_part(root, shard), shards))
    root.replace(index_of(version), _to_parquet(pa.concat_tables(parts)))


def read_group_rows(root: Folder, version: str, columns: Sequence[str] = ()) -> pa.Table:
    """Read some columns of a version's index, or all. Raises ValueError when it is absent or not one."""
    name = index_of(version)
    try:
        source = pa.BufferReader(root.read(name))
        return pq.read_table(source, columns=[*columns] or None)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ValueError(
            f"{root.uri}/{name}: no index of groups ({error}); delete it if it is there, and "
            "run jobs.generate again"
        ) from error


def rows_by_shard(rows: pa.Table) -> dict[str, pa.Table]:
    """The rows of each shard, without the column `shard`."""
    runs = pc.run_end_encode(rows["shard"].combine_chunks())
    names, ends = runs.values.to_pylist(), runs.run_ends.to_pylist()
    own = rows.drop(["shard"])
    return {
        name: own.slice(start, end - start)
        for name, start, end in zip(names, [0, *ends], ends, strict=False)
    }


def count_by_shard(rows: pa.Table, column: str, shards: Sequence[str]) -> np.ndarray:
    """Items of a list column in each shard, in the order of `shards`; 0 for one without rows."""
    places = {name: place for place, name in enumerate(shards)}
    encoded = rows["shard"].combine_chunks().dictionary_encode()
    by_code = np.array([places.get(name, -1) for name in encoded.dictionary.to_pylist()], np.int64)
    at = by_code[encoded.indices.to_numpy()]
    if len(at) and at.min() < 0:
        raise ValueError("the index of groups names shards that are not in the manifest")
    lengths = pc.list_value_length(rows[column]).to_numpy()
    return np.bincount(at, weights=lengths, minlength=len(shards)).astype(np.int64)


def index_of(version: str) -> str:
    """Where below the root the index of a version lies."""
    return f"versions/{check_name(version, 'dataset version')}.parquet"


def _rows_at(shard: str) -> str:
    return f"shards/{shard}.parquet"


def _read_part(root: Folder, shard: str) -> pa.Table:
    try:
        rows = pq.read_table(pa.BufferReader(root.read(_rows_at(shard))), schema=_SCHEMA)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ValueError(
            f"{root.uri}/{_rows_at(shard)}: missing or damaged ({error}); delete the shard's marker "
            "and run jobs.generate again"
        ) from error
    return rows.add_column(0, "shard", pa.array([shard] * len(rows), pa.string()))


def _to_parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
