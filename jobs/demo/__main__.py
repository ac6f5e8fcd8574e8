"""python -m jobs.demo: every step once, small, from rendered scenes to a promoted model.

It calls the same functions as the single commands. A second run reuses what is unchanged.
"""

from __future__ import annotations

import argparse

from jobs.command_line import Command, Verb, add_address, add_work, run_command


def _demo(arguments: argparse.Namespace) -> None:
    import os

    from infra.settings import read_settings
    from jobs.console import print_line
    from jobs.demo.run import demo

    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    print_line(f"Work folder: {os.path.relpath(settings.work)}")
    demo(settings, smoke=arguments.smoke)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="shrink everything to seconds")
    add_address(parser)
    add_work(parser)


COMMAND = Command("demo", __doc__, ["python -m jobs.demo --smoke"], Verb(_add_arguments, _demo))


def main() -> None:
    """Run the command."""
    run_command(COMMAND)


if __name__ == "__main__":
    main()
