"""python -m jobs.metrics --vi DIR --ir DIR --fused DIR --out table.csv: measure any method's pictures.

The three folders hold pictures of the same stems, whatever their extensions; grey, colour and
palette alike. The table has the columns image, metric, value.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
from pathlib import Path

import torch

from jobs.console import print_facts, print_line, progress, run_command
from models.metrics import DEFAULT, METRIC_VERSION, METRICS, MIN_SIDE_PX
from pipelines.evaluation.method_folders import (
    Found,
    Triple,
    check_complete,
    find_triples,
    measure_triples,
    read_picture,
)
from pipelines.sources.pictures import to_tensor
from pipelines.store.files import write_whole

Table = dict[str, dict[str, float]]


def measure_folders(found: Found, names: tuple[str, ...]) -> Table:
    """Values by image and metric of every complete triple."""
    if not found.triples:
        raise ValueError("the folders have no picture in common; their stems must be the same")
    # One thread a picture is faster than several threads on one.
    torch.set_num_threads(1)
    num_threads = len(os.sched_getaffinity(0))
    table: Table = {}
    with progress("pictures", len(found.triples)) as advance:
        for triple, values in measure_triples(found.triples, names, num_threads=num_threads):
            table[triple.name] = values
            advance(len(table), triple.name)
    return table


def score_folders(triples: tuple[Triple, ...], table: Table) -> Table:
    """Add MUSIQ, PI and TReS of the fused pictures."""
    from infra.no_reference import load_scores

    scores = load_scores()
    with torch.inference_mode(), progress("scores", len(triples)) as advance:
        for done, triple in enumerate(triples, start=1):
            fused = to_tensor(read_picture(triple.fused)).expand(-1, 3, -1, -1)
            table[triple.name] |= {name: float(score(fused)) for name, score in scores.items()}
            advance(done, triple.name)
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
        few = f"  over {len(known)} of {len(column)}: needs {MIN_SIDE_PX.get(name)} px a side"
        means[name] = text + (few if len(known) < len(column) else "")
    return means


def _say_means(table: Table, out: Path) -> None:
    print_line(f"  means over {len(table)} pictures, metric version {METRIC_VERSION}")
    print_facts(means_of(table))
    print_facts({"table": str(out)})


def _main(arguments: argparse.Namespace) -> None:
    found = find_triples(arguments.vi, arguments.ir, arguments.fused)
    if arguments.partial:
        for sentence in found.incomplete:
            print_line(f"  left out: {sentence}")
    else:
        check_complete(found)
    table = measure_folders(found, METRICS if arguments.variants else DEFAULT)
    if arguments.no_reference:
        table = score_folders(found.triples, table)
    write_table(table, arguments.out)
    _say_means(table, arguments.out)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.metrics", description=__doc__)
    for name, what in (("vi", "visible"), ("ir", "infrared"), ("fused", "fused")):
        parser.add_argument(
            f"--{name}", type=Path, required=True, help=f"folder of {what} pictures"
        )
    parser.add_argument("--out", type=Path, required=True, help="the table to write (CSV)")
    parser.add_argument(
        "--variants",
        action="store_true",
        help="also what other papers publish under these names, and DRFusion's Q_ metrics",
    )
    parser.add_argument(
        "--no-reference", action="store_true", help="also MUSIQ, PI and TReS (extra: noreference)"
    )
    parser.add_argument(
        "--partial", action="store_true", help="name pictures without partners and go on"
    )
    run_command(_main, parser)


if __name__ == "__main__":
    main()
