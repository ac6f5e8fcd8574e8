"""python -m jobs.chain COMMAND … then COMMAND …: commands of ours in a row, until one fails.

Each COMMAND is what would follow `python -m jobs.`. The words, recipe and settings of all of them are
checked before the first begins. A step that fails ends the chain with its exit status. The same chain again
resumes there: every command passes over what it has done already.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from jobs.command_line import Command, Verb
from jobs.commands import THEN, read_steps


def _chain(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line, section
    from jobs.submit.needs import needs_of

    steps = read_steps(arguments.steps)
    for step in steps:
        needs_of(step)
    for place, step in enumerate(steps, 1):
        section(f"step {place} of {len(steps)}: {step[0]}")
        print_line(f"  python -m jobs.{shlex.join(step)}")
        if status := _run(step):
            at = f"step {place} of {len(steps)}, {step[0]}"
            print_line(f"{at}, ended with status {status}; the same chain resumes there")
            sys.exit(status)


def _run(step: Sequence[str]) -> int:
    """Run a step in a process of its own; its exit status, 128 + N where signal N ended it.

    A terminal's Ctrl-C reaches the step by itself; SIGTERM and SIGHUP are passed on. Either way the chain
    ends when the step has, by the step's own status.
    """
    process = subprocess.Popen([sys.executable, "-m", f"jobs.{step[0]}", *step[1:]])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def pass_on(number: int, _: object) -> None:
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "steps",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help=f"a command and its arguments; the word {THEN!r} stands between two",
    )


COMMAND = Command(
    "chain",
    __doc__,
    [
        "python -m jobs.chain generate small --scenes roadscene then promote dspfusion",
        "python -m jobs.submit --follow -- chain generate small --scenes roadscene then promote dspfusion",
    ],
    Verb(_add_arguments, _chain),
)


if __name__ == "__main__":
    COMMAND.run()
