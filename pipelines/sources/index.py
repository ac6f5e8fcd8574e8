"""The scene index: what a scan found, as one Parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from pipelines.sources.pairing import Refused
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.files import whole_file

# 0.4 KB a row and what is made of it: 4 GiB with the ids and digests of a plan.
_MAX_SCENES = 5_000_000
_SCHEMA = SceneTable.of(()).table.schema
_REQUIRED = [name for name, field in Scene.model_fields.items() if field.annotation in (int, str)]
_ID_PATTERN = "^[a-z0-9_-]+$"


def write_index(result: ScanResult, path: Path) -> None:
    """Write the index as one Parquet file; what was refused travels in its metadata."""
    refused = _RefusedFiles(refused=result.refused).model_dump_json()
    table = result.scenes.table.sort_by("id").replace_schema_metadata({"scan": refused})
    with whole_file(path) as stream:
        pq.write_table(table, stream)


def read_index(path: Path) -> ScanResult:
    """Read an index written by `write_index`. Raises ValueError when it is missing or not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such scene index; make one with python -m jobs.scan FOLDER")
    try:
        num_scenes = pq.read_metadata(path).num_rows
        if num_scenes > _MAX_SCENES:
            raise ValueError(f"{num_scenes} scenes, above the {_MAX_SCENES} that fit into memory")
        table = pq.read_table(path)
        refused = _RefusedFiles.model_validate_json((table.schema.metadata or {})[b"scan"])
        scenes = SceneTable(table.select(_SCHEMA.names).cast(_SCHEMA))
        _check_columns(scenes.table)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a scene index ({reason}); run jobs.scan again") from error
    return ScanResult(scenes=scenes, refused=refused.refused)


def _check_columns(table: pa.Table) -> None:
    """Raise ValueError for a row that is no scene: found here, in all rows, and not on a worker."""
    for name in _REQUIRED:
        if table.column(name).null_count:
            raise ValueError(f"{table.column(name).null_count} rows have no {name}")
    for camera in ("vi", "ir"):
        uri, sha256 = (table.column(f"{camera}_{what}").is_valid() for what in ("uri", "sha256"))
        if not uri.equals(sha256):
            raise ValueError(f"{camera}_uri and {camera}_sha256 do not go together in every row")
    ids = table.column("id")
    # `all` of no rows is null.
    if pc.all(pc.match_substring_regex(ids, _ID_PATTERN)).as_py() is False:
        raise ValueError("an id is not of small letters, digits, _ and -")
    if pc.count_distinct(ids).as_py() != len(ids):
        raise ValueError("two rows have the same id")
    if any(pc.any(pc.less(table.column(side), 1)).as_py() for side in ("width", "height")):
        raise ValueError("a width or a height is not positive")


class _RefusedFiles(BaseModel):
    """What an index's metadata holds."""

    refused: tuple[Refused, ...]
