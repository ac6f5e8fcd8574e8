"""python -m jobs.scan FOLDER [--name NAME]: index registered IR/VI pairs, on disk or on S3.

The folder is one data set, or holds several, each in a folder of its own; one index then holds them all.
Writes WORK/scenes/NAME.parquet, which the other commands take by that name, and beside it
NAME.report.json: every file that was refused and why, and scenes that leak between splits.
"""

from __future__ import annotations

import argparse

from jobs.command_line import Command, Verb, add_work, number, options_again, run_command


def _scan(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from infra.settings import read_settings
    from jobs.console import print_line
    from jobs.scan.run import scan_folder

    name = arguments.name or Path(arguments.folder).resolve().name.lower()
    scan_folder(
        arguments.folder,
        read_settings(work=arguments.work),
        name=name,
        split=arguments.split,
        max_refused_share=arguments.max_refused_share,
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
        help="split of a data set without split folders (default: %(default)s)",
    )
    parser.add_argument(
        "--max-refused-share",
        type=number(0, 1),
        default=0.01,
        help="a larger share of bad pairs stops the scan (default: %(default)s)",
    )
    add_work(parser)


COMMAND = Command(
    "scan",
    __doc__,
    ["python -m jobs.scan ../data/roadscene --name roadscene"],
    Verb(_add_arguments, _scan),
)


def main() -> None:
    """Run the command."""
    run_command(COMMAND)


if __name__ == "__main__":
    main()
