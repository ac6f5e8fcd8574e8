"""python -m jobs.demo: every step once, small, from rendered scenes to a promoted model.

It calls the same functions as the single commands, and starts from the weights `small`. With --pairs it
goes the same way on your own pairs: a fifth of them is held out, unless there is a split val. A second
run reuses what is unchanged.
"""

from __future__ import annotations

import argparse

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_work,
    number,
    options_again,
    settings_of,
)


def _demo(arguments: argparse.Namespace) -> None:
    import os

    from jobs.console import print_line
    from jobs.demo.run import OwnPairs, demo

    settings = settings_of(arguments)
    print_line(f"Work folder: {os.path.relpath(settings.work)}")
    own = OwnPairs(arguments.pairs, arguments.minutes) if arguments.pairs else None
    model = demo(settings, smoke=arguments.smoke, own=own)
    where = options_again(arguments, "work")
    fuse = f"python -m jobs.fuse {model} --vi VI.png --ir IR.png --out fused.png --side-by-side"
    print_line(f"next, a pair of yours: {fuse}{where}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="shrink everything to seconds")
    parser.add_argument(
        "--pairs", metavar="FOLDER", help="your own pairs, instead of rendered scenes"
    )
    parser.add_argument(
        "--minutes",
        type=number(1, 100_000),
        default=15,
        help="with --pairs: how long to train, about (default: %(default)s)",
    )
    add_address(parser)
    add_work(parser)


COMMAND = Command(
    "demo",
    __doc__,
    ["python -m jobs.demo", "python -m jobs.demo --pairs ../shared/data/ivif/msrs --minutes 15"],
    Verb(_add_arguments, _demo),
)


if __name__ == "__main__":
    COMMAND.run()
