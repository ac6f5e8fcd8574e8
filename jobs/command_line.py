"""What our commands share of the command line: verbs, help with an example, one line for a mistake.

A command is a value, so that `jobs.submit` reads a command's words as the command does. Nothing heavy
is imported here, nor by a command before its work begins: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any, NoReturn

from jobs.recipes import Recipes


@dataclass(frozen=True)
class Verb:
    """One thing that a command does: how its arguments are added, and its work on them."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


@dataclass(frozen=True)
class Command:
    """`python -m jobs.NAME`: a verb where the first word is one, else the `default`.

    `doc` and `examples` (a command line each) are its help.
    """

    name: str
    doc: str | None
    examples: Sequence[str]
    default: Verb | None = None
    verbs: Mapping[str, Verb] = field(default_factory=dict)


def parse_words(command: Command, words: Sequence[str]) -> argparse.Namespace:
    """Parse what follows `python -m jobs.NAME`; a usage error ends the process with status 2.

    The result has the `verb` (None for the default), and in `run` what does the work.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{command.name}",
        description=command.doc,
        epilog="examples:\n" + indent("\n".join(command.examples), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb = command.verbs.get(words[0]) if words else None
    chosen = verb or command.default
    if verb or not chosen:
        parser.add_argument("verb", choices=[words[0]] if verb else [*command.verbs])
    if chosen:
        chosen.add_arguments(parser)
        parser.set_defaults(run=chosen.run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if "--show" in words and parser.get_default("show") is not None:
        # It asks about the recipe alone.
        for action in parser._actions:
            action.required &= action.dest == "recipe"
    return parser.parse_args(words, argparse.Namespace(verb=None))


def run_command(command: Command) -> NoReturn:
    """Run a command on this process's words; a person's mistake is one line and exit status 2."""
    arguments = parse_words(command, sys.argv[1:])
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        from jobs.console import print_error

        print_error(error)
        sys.exit(2)
    sys.exit(0)


def add_recipe_arguments(
    parser: argparse.ArgumentParser, recipes: Recipes[Any], *, default: str | None = None
) -> None:
    """Add RECIPE (with a `default`: `--recipe`), `--set`, `--smoke` and `--show`; list the recipes."""
    what = "a recipe listed below, or MODULE:FUNCTION, one of yours"
    if default:
        parser.add_argument(
            "--recipe", default=default, metavar="RECIPE", help=f"{what} (default: %(default)s)"
        )
    else:
        parser.add_argument("recipe", metavar="RECIPE", help=what)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting (repeatable); --show lists them",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="shrink everything to a trial run of seconds"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the settings, after --set and --smoke, and stop"
    )
    summaries = recipes.summaries()
    width = max(map(len, summaries), default=0)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    parser.epilog = "\n".join([parser.epilog or "", "", "recipes:", *lines])


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add `--work`."""
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Add `--vi-window` and `--ir-window`, for pictures of more than 8 bits."""
    for camera in ("vi", "ir"):
        parser.add_argument(
            f"--{camera}-window",
            metavar="LOW:HIGH",
            help=f"levels of {camera} pictures of more than 8 bits that become black and white, as levels "
            "(28000:31000) or percentiles of the folder (1%%:99%%), or full (default: measured where "
            "they fill less than half of the scale)",
        )


def window_rules(arguments: argparse.Namespace) -> dict[str, Any]:
    """The rules that `--vi-window` and `--ir-window` give, by camera."""
    from pipelines.checks.depth import WindowRule

    return {
        camera: WindowRule.parse(getattr(arguments, f"{camera}_window"), f"--{camera}-window")
        for camera in ("vi", "ir")
    }


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add `--address`."""
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
