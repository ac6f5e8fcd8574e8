"""Measure fusion methods on scenes under scenarios; rows, their file, and their means.

Methods get the degraded pair, the metrics compare with the high-quality one (`reference="hq"`).

Legend: B batch (1 here), C channels, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.dspfusion.denoiser import prior_schedule
from models.metrics import DEFAULT, DIRECTION, METRIC_VERSION, METRICS, measurable, measure
from pipelines.baselines import BASELINES, Baseline, Fuse
from pipelines.export import load_bundle
from pipelines.files import whole_file
from pipelines.images import to_tensor, to_uint8
from pipelines.scenarios import CLEAN, SCENARIOS, SEVERITIES, Scenario, degrade
from pipelines.scenes import Read, Scene, fetched, load_pair, read_file
from pipelines.seeding import rng_at
from pipelines.triples import pictures_by_stem, read_picture

Row = dict[str, Any]

REFERENCE = "hq"
# Names of the two methods that every evaluation of ours measures; the gate compares their rows.
MODEL: Final = "model"
BASELINE: Final = "average"
OVERALL = "overall"
HEADLINE: tuple[str, ...] = ("VIF", "Qabf", "MI", "SSIM")

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
}


_NUM_RESAMPLES = 1000


class Measurement(BaseModel):
    """What is measured how: the argument of the tasks that travel to workers.

    `folders` holds other methods' fused pictures of the clean pairs, by method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    scenarios: tuple[Scenario, ...]
    baselines: tuple[Baseline, ...] = (BASELINE,)
    folders: dict[str, Path] = {}
    metrics: tuple[str, ...] = DEFAULT
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """Pictures of one scene under one scenario, uint8: VI H×W×3, IR H×W×1, fused H×W×C."""

    scene: str
    scenario: str
    vi: np.ndarray
    ir: np.ndarray
    vi_lq: np.ndarray
    ir_lq: np.ndarray
    fused: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """Means over scenes; `means[scenario, method, metric]`, OVERALL being the mean of scenarios.

    A method that was measured under some scenarios only has no mean in the others, nor OVERALL.
    """

    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    num_scenes: Mapping[str, int]
    means: Mapping[tuple[str, str, str], float]

    def best(self, scenario: str, metric: str) -> str | None:
        """Name the one method that leads a line; None for a tie or a single method."""
        sign = DIRECTION[metric]
        values = {
            method: sign * self.means[scenario, method, metric]
            for method in self.methods
            if (scenario, method, metric) in self.means
        }
        leaders = [method for method, value in values.items() if value == max(values.values())]
        return leaders[0] if len(values) > 1 and len(leaders) == 1 else None


def methods_of(measurement: Measurement) -> dict[str, Fuse]:
    """The fuser of a bundle and the baselines it is compared with, by name."""
    return {
        MODEL: load_bundle(measurement.bundle),
        **{name: BASELINES[name] for name in measurement.baselines},
    }


def evaluate_bundle(
    scenes: Sequence[Scene], measurement: Measurement, read: Read = read_file
) -> list[Row]:
    """Rows of some scenes under every scenario: the unit of work that travels to a worker.

    The bundle is loaded once for all of them; `read` fetches sources by URI.
    """
    methods = methods_of(measurement)
    rows = []
    with fetched(scenes, read) as here:
        for scene in here:
            for scenario in measurement.scenarios:
                rows += evaluate_scene(
                    scene, scenario, methods, seed=measurement.seed, metrics=measurement.metrics
                )
            if CLEAN in measurement.scenarios:
                rows += [
                    _folder_row(scene, name, folder, measurement.metrics)
                    for name, folder in measurement.folders.items()
                ]
    return rows


def steps_means(
    num_steps: int, scenes: Sequence[Scene], measurement: Measurement, read: Read = read_file
) -> dict[str, float]:
    """Mean of every metric with another number of sampling steps than the model was trained with.

    Raises ValueError for a model that does not sample.
    """
    fuser = load_bundle(measurement.bundle)
    if fuser.denoiser is None:
        raise ValueError(
            f"{measurement.bundle}: a Stage I model has no sampling steps; unset steps"
        )
    fuser.schedule = prior_schedule(fuser.config.model_copy(update={"num_steps": num_steps}))
    with fetched(scenes, read) as here:
        rows = [
            row
            for scene in here
            for scenario in measurement.scenarios
            for row in evaluate_scene(
                scene,
                scenario,
                {MODEL: fuser},
                seed=measurement.seed,
                metrics=measurement.metrics,
            )
        ]
    # Without seconds: tasks run beside each other. They come back in any order.
    means = {name: _mean([row[name] for row in rows]) for name in measurement.metrics}
    return {"num_steps": float(num_steps)} | means


def metrics_for(scenes: Sequence[Scene]) -> tuple[str, ...]:
    """The default metrics that even the smallest of the scenes is large enough for."""
    height, width = min(s.height for s in scenes), min(s.width for s in scenes)
    return measurable(height, width, DEFAULT)


def check_folder(name: str, folder: Path, scenes: Sequence[Scene]) -> None:
    """Raise ValueError unless a folder of fused pictures has one for every scene."""
    files = pictures_by_stem(folder)
    missing = [scene.id for scene in scenes if _stem(scene, files) is None]
    if missing:
        raise ValueError(
            f"--method {name}: {folder} has no picture for {len(missing)} of {len(scenes)} scenes, "
            f"the first is {missing[0]}; name each as its visible source or as its scene"
        )


def _stem(scene: Scene, files: Mapping[str, Path]) -> str | None:
    names = (Path(scene.vi_uri).stem.lower(), scene.id)
    return next((name for name in names if name in files), None)


def _folder_row(scene: Scene, name: str, folder: Path, metrics: Sequence[str]) -> Row:
    files = pictures_by_stem(folder)
    stem = _stem(scene, files)
    assert stem is not None, "check_folder was not asked first"
    vi, ir = load_pair(scene)
    values = _measure(to_tensor(read_picture(files[stem])), vi, ir, metrics, where=str(files[stem]))
    # How long another method took is not known here.
    return _row_head(scene, CLEAN, name, math.nan) | values


def evaluate_scene(
    scene: Scene,
    scenario: Scenario,
    methods: Mapping[str, Fuse],
    *,
    seed: int,
    metrics: Sequence[str] = DEFAULT,
) -> list[Row]:
    """Return one row per method, with the named metrics and the seconds the method took.

    Raises ValueError, naming scene and method, for a fused picture that cannot be measured.
    """
    vi, ir, vi_lq, ir_lq = _pictures(scene, scenario, seed=seed)
    rows = []
    for name, fuse in methods.items():
        fused, seconds = _run(fuse, vi_lq, ir_lq)
        where = f"{scene.id}, {scenario.name}, method {name!r}"
        values = _measure(fused, vi, ir, metrics, where=where)
        rows.append(_row_head(scene, scenario, name, seconds) | values)
    return rows


def _measure(
    fused: Tensor, vi: np.ndarray, ir: np.ndarray, metrics: Sequence[str], *, where: str
) -> dict[str, float]:
    try:
        values = measure(fused, to_tensor(vi), to_tensor(ir), metrics)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return {metric: float(value) for metric, value in values.items()}


def make_example(
    scene: Scene, scenario: Scenario, methods: Mapping[str, Fuse], *, seed: int
) -> Example:
    """Return the pictures behind the rows of `evaluate_scene` with the same arguments."""
    vi, ir, vi_lq, ir_lq = _pictures(scene, scenario, seed=seed)
    fused = {name: to_uint8(_run(fuse, vi_lq, ir_lq)[0]) for name, fuse in methods.items()}
    return Example(scene.id, scenario.name, vi, ir, vi_lq, ir_lq, fused)


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


def summarise(rows: Sequence[Row]) -> Summary:
    """Mean of each metric per (scenario, method), and over scenarios with equal weight.

    Raises ValueError where means would not compare: repeated rows, methods measured on different
    scenes, or more than one metric version or reference kind.
    """
    _check_comparable(rows)
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    metrics = tuple(name for name in rows[0] if name in METRICS)
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["scenario"], row["method"]].append(row)
    scenarios = in_table_order({row["scenario"] for row in rows})
    means = _means(cells, scenarios, methods, metrics)
    num_scenes = {scenario: len(cells.get((scenario, methods[0]), ())) for scenario in scenarios}
    return Summary(scenarios, methods, metrics, num_scenes, means)


def format_table(
    summary: Summary, *, model: str, baseline: str, metrics: Sequence[str] = HEADLINE
) -> list[str]:
    """Lines of an aligned table: the model's mean and, in brackets, its gain on the baseline."""
    for method in (model, baseline):
        if method not in summary.methods:
            raise ValueError(f"no rows of method {method!r}; known: {', '.join(summary.methods)}")
    lines = [["scenario", "scenes", *metrics]]
    for scenario in (*summary.scenarios, OVERALL):
        num_scenes = str(summary.num_scenes.get(scenario, ""))
        cells = [_cell(summary, scenario, metric, model, baseline) for metric in metrics]
        lines.append([scenario, num_scenes, *cells])
    text = _align(lines)
    rule = "-" * len(text[0])
    title = f"{model}, in brackets the difference from {baseline} (reference: {REFERENCE})"
    return [title, text[0], rule, *text[1:-1], rule, text[-1]]


def interval_of(values: Sequence[float], *, address: str) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; `address` seeds it."""
    array = np.asarray(values)
    chosen = rng_at(0, address).integers(0, len(array), size=(_NUM_RESAMPLES, len(array)))
    low, high = np.quantile(array[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def worst_cases(
    rows: Sequence[Row], *, metric: str, model: str, baseline: str, count: int
) -> list[tuple[str, str]]:
    """(scene, scenario) of the rows where the model stays farthest behind the baseline."""
    values: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        values[row["method"]][row["scene"], row["scenario"]] = DIRECTION[metric] * row[metric]
    gains = {key: value - values[baseline][key] for key, value in values[model].items()}
    return sorted(gains, key=lambda key: (gains[key], key))[:count]


def in_table_order(names: set[str]) -> tuple[str, ...]:
    """Sort scenario names as the table of scenarios does; names it does not have come last."""
    table = (*SCENARIOS, *SEVERITIES)
    known = [scenario.name for scenario in table if scenario.name in names]
    return (*known, *sorted(names.difference(known)))


def _pictures(
    scene: Scene, scenario: Scenario, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    vi, ir = load_pair(scene)
    return vi, ir, *degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)


def _run(fuse: Fuse, vi: np.ndarray, ir: np.ndarray) -> tuple[Tensor, float]:
    vi_lq, ir_lq = to_tensor(vi), to_tensor(ir)
    with torch.inference_mode():
        start = time.perf_counter()
        # The copy to the CPU waits for the device and so belongs to the time.
        fused = fuse(vi_lq, ir_lq).to("cpu", torch.float32)  # B C H W
        seconds = time.perf_counter() - start
    return fused, seconds


def _row_head(scene: Scene, scenario: Scenario, method: str, seconds: float) -> Row:
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


def _means(
    cells: Mapping[tuple[str, str], Sequence[Row]],
    scenarios: Sequence[str],
    methods: Sequence[str],
    metrics: Sequence[str],
) -> dict[tuple[str, str, str], float]:
    means = {}
    for method, metric in product(methods, metrics):
        each = {
            name: _mean([row[metric] for row in cells[name, method]])
            for name in scenarios
            if (name, method) in cells
        }
        means.update({(name, method, metric): mean for name, mean in each.items()})
        if len(each) == len(scenarios):
            means[OVERALL, method, metric] = _mean(list(each.values()))
    return means


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _check_comparable(rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("no rows to summarise; evaluate at least one scene")
    kinds = {(row["metric_version"], row["reference"]) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"rows mix (metric version, reference) {sorted(kinds)}; evaluate again")
    counts = Counter((row["method"], row["scene"], row["scenario"]) for row in rows)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} rows are repeated, the first is {repeated[0]}")
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for method, scene, scenario in counts:
        seen[scenario, method].add(scene)
    for (scenario, method), scenes in seen.items():
        everything = set().union(*(seen[key] for key in seen if key[0] == scenario))
        if scenes != everything:
            first = (min(everything - scenes), scenario)
            raise ValueError(
                f"method {method!r} was not measured on {first}; evaluate it there too"
            )


def _cell(summary: Summary, scenario: str, metric: str, model: str, baseline: str) -> str:
    value = summary.means[scenario, model, metric]
    return f"{value:.4f} ({value - summary.means[scenario, baseline, metric]:+.4f})"


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
