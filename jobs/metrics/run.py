"""Any method's fused pictures, measured against their sources: a table and its means."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from infra.learned_scores import load_scores
from jobs.console import print_facts, print_line, progress
from models.metrics import METRIC_VERSION, MIN_SIDE_PX
from pipelines.evaluation.extras import score_picture
from pipelines.evaluation.flicker import flicker
from pipelines.evaluation.method_folders import (
    Found,
    Triple,
    measure_triples,
    read_picture,
    read_source,
)
from pipelines.results.rows import FLICKER
from pipelines.sources.pictures import to_tensor
from pipelines.store.files import write_whole

Table = dict[str, dict[str, float]]


def measure_folders(found: Found, names: tuple[str, ...]) -> tuple[Table, list[str]]:
    """Values by image and metric of every complete triple, and why some cannot be measured.

    Raises ValueError where none can.
    """
    if not found.triples:
        raise ValueError("the folders have no picture in common; their stems must be the same")
    # One thread a picture is faster than several threads on one.
    torch.set_num_threads(1)
    num_threads = len(os.sched_getaffinity(0))
    table: Table = {}
    failures: list[str] = []
    with progress("pictures", len(found.triples)) as advance:
        for triple, values in measure_triples(found.triples, names, num_threads=num_threads):
            if isinstance(values, ValueError):
                failures.append(str(values))
            else:
                table[triple.name] = values
            advance(len(table) + len(failures), triple.name)
    if not table:
        raise ValueError(f"no picture can be measured: {failures[0]}")
    return table, failures


def score_folders(triples: tuple[Triple, ...], table: Table, names: Sequence[str]) -> Table:
    """Add learned scores of the fused pictures."""
    scores = load_scores(names)
    triples = tuple(triple for triple in triples if triple.name in table)
    with progress("scores", len(triples)) as advance:
        for done, triple in enumerate(triples, start=1):
            fused = to_tensor(read_picture(triple.fused))
            vi = to_tensor(read_source(triple.vi, "vi", triple.vi_window))
            ir = to_tensor(read_source(triple.ir, "ir", triple.ir_window))
            table[triple.name] |= score_picture(fused, vi, ir, scores)
            advance(done, triple.name)
    return table


def measure_flicker(triples: tuple[Triple, ...], table: Table) -> Table:
    """Add the flicker of frames, which follow each other in order of name; the first has none (NaN)."""
    frames = [triple for triple in triples if triple.name in table]
    if len(frames) < 2:
        raise ValueError("a sequence has two frames at least; leave out --sequence")
    pictures = (
        (read_picture(triple.fused), read_source(triple.vi, "vi", triple.vi_window))
        for triple in frames
    )
    values = [math.nan, *flicker(pictures)]
    for triple, value in zip(frames, values, strict=True):
        table[triple.name][FLICKER] = value
    return table


def write_table(table: Table, path: Path) -> None:
    """Write image, metric, value; a picture too small for a metric has the value nan."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", "metric", "value"))
    for image, values in table.items():
        writer.writerows((image, name, repr(value)) for name, value in values.items())
    write_whole(path, stream.getvalue().encode())


def means_of(table: Table) -> dict[str, str]:
    """Mean of every metric, over the pictures that have one."""
    means = {}
    for name in next(iter(table.values())):
        column = [values[name] for values in table.values()]
        known = [value for value in column if not math.isnan(value)]
        text = f"{sum(known) / len(known):.6g}" if known else "none"
        why = (
            "the first has none" if name == FLICKER else f"needs {MIN_SIDE_PX.get(name)} px a side"
        )
        few = f"  over {len(known)} of {len(column)}: {why}"
        means[name] = text + (few if len(known) < len(column) else "")
    return means


def print_means(table: Table, out: Path) -> None:
    """Print the mean of every metric, and where the table lies."""
    print_line(f"  means over {len(table)} pictures, metric version {METRIC_VERSION}")
    print_facts(means_of(table))
    print_facts({"table": str(out)})
