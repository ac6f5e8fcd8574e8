"""The scene index: what a scan found, as one Parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from pipelines.sources.pairing import Refused
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import whole_file


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
