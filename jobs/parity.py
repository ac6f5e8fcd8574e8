"""python -m jobs.parity DIR: compare our systems with a folder of golden vectors.

Prints a line per tensor; exit status 1 when one is above its tolerance, 2 when the folder is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from jobs.console import print_line, run_command
from models.golden import Comparison
from pipelines.parity.folder import open_folder, systems_in


def _main(arguments: argparse.Namespace) -> None:
    # Here, because the models take a second to import and --help need not wait for them.
    from models import SYSTEMS

    checks = {each.name: each.golden_checks for each in SYSTEMS if each.golden_checks}
    folders = [
        open_folder(arguments.folder, name) for name in systems_in(arguments.folder, [*checks])
    ]
    started = time.perf_counter()
    print_line(f"{'case':<30} {'tensor':<52} {'max abs':>9} {'max rel':>9} {'tolerance':>13}")
    failed = num_tensors = 0
    for folder in folders:
        for comparison in checks[folder.system](folder):
            num_tensors += 1
            failed += not comparison.passed
            print_line(line(comparison))
    seconds = time.perf_counter() - started
    print_line(f"{num_tensors} tensors, {failed} above tolerance ({seconds:.0f} s)")
    if failed:
        sys.exit(1)


def line(comparison: Comparison) -> str:
    """One tensor as a line; the tolerance says which of the two errors it binds."""
    bound = f"{comparison.tolerance:.1e} {'rel' if comparison.relative else 'abs'}"
    return (
        f"{comparison.case:<30} {comparison.tensor:<52} {comparison.max_absolute:9.2e} "
        f"{comparison.max_relative:9.2e} {bound:>13}  {'ok' if comparison.passed else 'ABOVE'}"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder laid out like shared/parity")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
