"""What an evaluation leaves: a row a picture and method, as one Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from models.metrics import DIRECTION, METRIC_VERSION
from pipelines.scenarios.table import Scenario
from pipelines.sources.scenes import Scene
from pipelines.store.files import whole_file

Row = dict[str, Any]
REFERENCE = "hq"
# Names of the two methods that every evaluation of ours measures; the gate compares their rows.
MODEL: Final = "model"
BASELINE: Final = "average"
# Extras, which a row has where they were asked for: `extras` says what they are.
ScoreName = Literal["LPIPS_target", "MUSIQ", "PI", "TReS"]
LPIPS: Final = "LPIPS_target"
FLICKER: Final = "flicker"
AGREEMENT: Final = "detector_agreement"
# No column: it is of all pictures together, from what was detected in each (`detections`).
AP: Final = "detector_AP50"
DETECTIONS: Final = "detections"
# Of a system that restores its sources: each against the clean one, in grey.
RESTORED: Final = ("PSNR_vi", "SSIM_vi", "PSNR_ir", "SSIM_ir")
EXTRAS: Mapping[str, int] = MappingProxyType(
    {LPIPS: -1, "MUSIQ": 1, "PI": -1, "TReS": 1, FLICKER: -1, AGREEMENT: 1, AP: 1}
    | dict.fromkeys(RESTORED, 1)
)
# What is better, for everything that a row or a mean may hold: +1 means higher.
BETTER: Mapping[str, int] = MappingProxyType({**DIRECTION, **EXTRAS})
_JUDGED = pa.struct(
    {
        "found": pa.list_(
            pa.struct({"label": pa.int32(), "score": pa.float64(), "hit": pa.bool_()})
        ),
        "labelled": pa.list_(pa.int32()),
    }
)
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
    values: list[tuple[str, pa.DataType]] = [
        (name, _JUDGED if name == DETECTIONS else pa.float64())
        for name in rows[0]
        if name in BETTER or name == DETECTIONS
    ]
    expected = {*_FIELDS, *dict(values)}
    for row in rows:
        if row.keys() != expected:
            # from_pylist would drop the one and fill the other with nulls, in silence.
            odd = sorted(row.keys() ^ expected)
            raise ValueError(f"row of scene {row.get('scene')!r} differs in columns {odd}")
    fields = [*_FIELDS.items(), *values]
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
