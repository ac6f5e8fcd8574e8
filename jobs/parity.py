"""python -m jobs.parity DIR: compare our systems with a folder of golden vectors.

Prints a line per tensor; exit status 1 when one is above its tolerance, 2 when the folder is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command_line import Command, Verb

if TYPE_CHECKING:
    from models.golden import TensorComparison


def _compare(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from models import SYSTEMS
    from pipelines.parity.folder import open_golden_folder, systems_in

    known = {each.name: each.golden for each in SYSTEMS if each.golden}
    folders = [
        open_golden_folder(arguments.folder, name, known[name].index)
        for name in systems_in(arguments.folder, [*known])
    ]
    started = time.perf_counter()
    print_line(f"{'case':<30} {'tensor':<52} {'max abs':>9} {'max rel':>9} {'tolerance':>13}")
    failed = num_tensors = 0
    for folder in folders:
        for comparison in known[folder.system].check(folder):
            num_tensors += 1
            failed += not comparison.passed
            print_line(line(comparison))
    seconds = time.perf_counter() - started
    print_line(f"{num_tensors} tensors, {failed} above tolerance ({seconds:.0f} s)")
    if failed:
        sys.exit(1)


def line(comparison: TensorComparison) -> str:
    """One tensor as a line; the tolerance says which of the two errors it binds."""
    bound = f"{comparison.tolerance:.1e} {'rel' if comparison.relative else 'abs'}"
    return (
        f"{comparison.case:<30} {comparison.tensor:<52} {comparison.max_absolute:9.2e} "
        f"{comparison.max_relative:9.2e} {bound:>13}  {'ok' if comparison.passed else 'ABOVE'}"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder laid out like shared/parity")


COMMAND = Command(
    "parity", __doc__, ["python -m jobs.parity ../shared/parity"], Verb(_add_arguments, _compare)
)


if __name__ == "__main__":
    COMMAND.run()
