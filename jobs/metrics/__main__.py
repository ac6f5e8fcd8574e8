"""python -m jobs.metrics --vi DIR --ir DIR --fused DIR --out table.csv: measure any method's pictures.

The three folders hold pictures of the same stems, whatever their extensions; grey, colour and
palette alike. The table has the columns image, metric, value.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.command_line import Command, Verb, add_windows, window_rules

# Those of infra.learned_scores, which imports pydantic; a test holds them equal.
SCORES = ("LPIPS_target", "MUSIQ", "PI", "TReS")


def _measure(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from jobs.metrics.run import (
        measure_flicker,
        measure_folders,
        print_means,
        score_folders,
        write_table,
    )
    from models.metrics import DEFAULT, METRICS
    from pipelines.evaluation.method_folders import check_complete, find_triples, with_windows

    rules = window_rules(arguments)
    found = find_triples(arguments.vi, arguments.ir, arguments.fused)
    if arguments.partial:
        for sentence in found.incomplete:
            print_line(f"  left out: {sentence}")
    else:
        check_complete(found)
    found = with_windows(found, rules)
    for line in {line for triple in found.triples for line in triple.described()}:
        print_line(f"  {line}")
    table, failures = measure_folders(found, METRICS if arguments.variants else DEFAULT)
    if arguments.score:
        table = score_folders(found.triples, table, arguments.score)
    if arguments.sequence:
        table = measure_flicker(found.triples, table)
    write_table(table, arguments.out)
    print_means(table, arguments.out)
    for reason in failures:
        print_line(f"  left out: {reason}")
    if failures and not arguments.partial:
        print_line(f"{len(failures)} pictures could not be measured; --partial takes that for good")
        sys.exit(1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
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
        "--score",
        action="append",
        default=[],
        choices=SCORES,
        help="also this learned score, by pyiqa (repeatable; extra: scores)",
    )
    parser.add_argument(
        "--sequence",
        action="store_true",
        help="the pictures are frames in order of name (0001, 0002, …): also their flicker (warping error)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="leave out, and name, pictures without partners and those that cannot be measured",
    )
    add_windows(parser)


COMMAND = Command(
    "metrics",
    __doc__,
    ["python -m jobs.metrics --vi msrs/vi --ir msrs/ir --fused results/method --out method.csv"],
    Verb(_add_arguments, _measure),
)


if __name__ == "__main__":
    COMMAND.run()
