"""What an evaluation leaves: a row a picture and method, as one Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from models.metrics import METRIC_VERSION, METRICS
from pipelines.evaluation.scenarios import Scenario
from pipelines.sources.scenes import Scene
from pipelines.store.files import whole_file

Row = dict[str, Any]
REFERENCE = "hq"
# Names of the two methods that every evaluation of ours measures; the gate compares their rows.
MODEL: Final = "model"
BASELINE: Final = "average"
_FIELDS: dict[str, pa.DataType] = {
    "scene": pa.string(),
    "dataset": pa.string(),
    "scenario": pa.string(),
    "method": pa.string(),
    "reference": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "seconds": pa.float64(),
    "metric_version": pa.string(),
    "protocol": pa.string(),
}


def row_head(scene: Scene, scenario: Scenario, method: str, seconds: float) -> Row:
    """The columns of a row before its metrics and the measurement's `protocol`."""
    return {
        "scene": scene.id,
        "dataset": scene.dataset,
        "scenario": scenario.name,
        "method": method,
        "reference": REFERENCE,
        "width": scene.width,
        "height": scene.height,
        "seconds": seconds,
        "metric_version": METRIC_VERSION,
    }


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows as one Parquet file, whole or not at all. Rows must have the same columns."""
    if not rows:
        raise ValueError(f"{path}: no rows to write; evaluate at least one scene")
    metrics = [name for name in rows[0] if name in METRICS]
    expected = {*_FIELDS, *metrics}
    for row in rows:
        if row.keys() != expected:
            # from_pylist would drop the one and fill the other with nulls, in silence.
            odd = sorted(row.keys() ^ expected)
            raise ValueError(f"row of scene {row.get('scene')!r} differs in columns {odd}")
    fields = [*_FIELDS.items(), *((name, pa.float64()) for name in metrics)]
    with whole_file(path) as stream:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(fields)), stream)


def read_rows(path: Path) -> list[Row]:
    """Read a file of `write_rows`. Raises ValueError when it is missing or something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of evaluation rows; run python -m jobs.evaluate")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error
    missing = sorted(_FIELDS.keys() - set(table.column_names))
    if missing:
        raise ValueError(f"{path}: not evaluation rows, columns {missing} are missing")
    return table.to_pylist()
