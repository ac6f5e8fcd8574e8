"""python -m jobs.scan FOLDER [--name NAME]: index registered IR/VI pairs, on disk or on S3.

The folder is one data set, or holds several, each in a folder of its own; one index then holds them all.
Writes WORK/scenes/NAME.parquet, which the other commands take by that name, and beside it
NAME.report.json: every file that was refused and why, poor targets, and scenes that leak between splits.
With a Ray cluster (--address, RAY_ADDRESS) its tasks check the pictures. The same command again reads
only files that changed.
"""

from __future__ import annotations

import argparse

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_windows,
    add_work,
    number,
    options_again,
    settings_of,
    window_rules,
)


def _scan(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from jobs.console import print_line
    from jobs.scan.run import read_bounds, read_layout, scan_folder
    from pipelines.sources.names import normalise_name
    from pipelines.sources.scan import ScanRules

    settings = settings_of(arguments)
    name = arguments.name or normalise_name(Path(arguments.folder).resolve().name).strip("_-")
    windows = window_rules(arguments)
    bounds, refuse = read_bounds(arguments.refuse)
    scan_folder(
        arguments.folder,
        settings,
        name=name,
        rules=ScanRules(
            layout=read_layout(arguments, settings),
            vi_window=windows["vi"],
            ir_window=windows["ir"],
            bounds=bounds,
            refuse=refuse,
            full=arguments.full,
            search_leaks=not arguments.no_leaks,
        ),
        max_refused_share=1.0 if arguments.partial else arguments.max_refused_share,
    )
    where = options_again(arguments, "work")
    print_line(f"next: python -m jobs.generate small --scenes {name}{where}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        help="path or s3://bucket/prefix of vi/ and ir/, of split folders that hold them, "
        "of another known layout, or of folders that are such data sets",
    )
    parser.add_argument("--name", help="name of the index (default: the folder's)")
    parser.add_argument(
        "--split",
        default="train",
        help="split of a data set without split folders or lists (default: %(default)s)",
    )
    parser.add_argument(
        "--hold-out",
        type=number(0, 1),
        default=0.0,
        metavar="SHARE",
        help="make a val split of this share of a data set that has none (such as 0.2), of whole sequences",
    )
    _add_layout(parser)
    add_windows(parser)
    parser.add_argument(
        "--max-refused-share",
        type=number(0, 1),
        default=0.01,
        help="a larger share of bad pairs stops the scan (default: %(default)s)",
    )
    parser.add_argument(
        "--partial", action="store_true", help="index the good pairs, however many are bad"
    )
    parser.add_argument(
        "--refuse",
        action="append",
        default=[],
        metavar="MEASURE[=BOUND]",
        help="leave poor targets out (repeatable): dark, clipped, noisy, blurred, offset_px or agreement; "
        "the report names them in any case",
    )
    parser.add_argument(
        "--full", action="store_true", help="read all files, also those that are unchanged"
    )
    parser.add_argument(
        "--no-leaks", action="store_true", help="do not look for scenes alike in two splits"
    )
    add_address(parser)
    add_work(parser)


def _add_layout(parser: argparse.ArgumentParser) -> None:
    """Add what says which pictures are which, where names of folders do not."""
    for camera, what in (("vi", "visible"), ("ir", "infrared")):
        parser.add_argument(
            f"--{camera}",
            metavar="PATTERN",
            help=f"{what} pictures, by name from the folder: * and ? match in a name, ** folders; pairs "
            "are what the wildcards of --vi and --ir match alike",
        )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="CSV table with the columns vi and ir (names from the folder), and perhaps split and scene",
    )
    parser.add_argument(
        "--camera",
        choices=("vi", "ir"),
        help="of a restoration set, gt/ with or without lq/: which camera its pictures are of",
    )
    parser.add_argument(
        "--lq",
        metavar="NAME",
        help="the degradation that the pictures in lq/ show (low_light, rain, …)",
    )
    parser.add_argument(
        "--split-list",
        action="append",
        default=[],
        metavar="SPLIT=FILE",
        help="text with a picture's name a line (repeatable); lists in the folder are found by themselves",
    )


COMMAND = Command(
    "scan",
    __doc__,
    [
        "python -m jobs.scan ../data/roadscene --name roadscene",
        "python -m jobs.scan ../data/ours --vi 'day/cam0/*.png' --ir 'day/cam1/*_t.png'",
    ],
    Verb(_add_arguments, _scan),
)


if __name__ == "__main__":
    COMMAND.run()
