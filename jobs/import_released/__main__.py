"""python -m jobs.import_released DIR [--name NAME]: register the authors' released weights.

DIR holds the files as the authors publish them (DSPFusion: net_g.pth, net_dp.pth, net_sp.pth and
net_dm.pth), which say of which system they are. Files that are registered under that name already are
not registered again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.command_line import Command, Verb, add_work, options_again, settings_of


def _import(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts, print_line
    from jobs.import_released.run import import_files

    settings = settings_of(arguments)
    model = import_files(arguments.folder, settings, name=arguments.name)
    print_facts({"model": model, "origin": "released"})
    where = options_again(arguments, "work")
    print_line(f"next: python -m jobs.fuse {model} --vi PATH --ir PATH --out PATH{where}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of the published files")
    parser.add_argument("--name", help="registered model (default: SYSTEM-released)")
    add_work(parser)


COMMAND = Command(
    "import_released",
    __doc__,
    ["python -m jobs.import_released ../weights/dspfusion"],
    Verb(_add_arguments, _import),
)


if __name__ == "__main__":
    COMMAND.run()
