"""What our commands share of the command line: verbs, help with an example, one line for a mistake.

A command is a value, so that `jobs.submit` reads a command's words as the command does. Nothing heavy
is imported here, nor by a command before its work begins: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from jobs.recipes import Recipes

if TYPE_CHECKING:
    from pydantic import BaseModel

    from infra.settings import Settings

# Characters of a wrong value that are shown.
_NUM_SHOWN = 40
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Verb:
    """One thing that a command does: how its arguments are added, and its work on them.

    Of one that takes a recipe, `configure` reads the configuration, which `--show` prints.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    configure: Callable[[argparse.Namespace], BaseModel] | None = None


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

    def run(self) -> NoReturn:
        """Run on this process's words; a person's mistake is one line and exit status 2.

        A signal that ends it (Ctrl-C, SIGTERM, SIGHUP) is one line that says how to resume, and 130.
        """
        arguments = parse_words(self, sys.argv[1:])
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, _interrupt)
        try:
            from infra.settings import let_idle_threads_sleep

            let_idle_threads_sleep()
            if getattr(arguments, "show", False):
                from jobs.config import show_settings

                show_settings(arguments.configure(arguments))
            else:
                arguments.run(arguments)
        except KeyboardInterrupt:
            from infra.logs import log_warning

            same = shlex.join(["python", "-m", f"jobs.{self.name}", *sys.argv[1:]])
            log_warning(f"interrupted; what is done is kept, and the same command resumes: {same}")
            sys.exit(130)
        except (ValueError, OSError) as error:
            if arguments.debug:
                raise
            from jobs.console import print_error

            print_error(error)
            sys.exit(2)
        sys.exit(0)


def parse_words(command: Command, words: Sequence[str]) -> argparse.Namespace:
    """Parse what follows `python -m jobs.NAME`; a usage error ends the process with status 2.

    The result has the `verb` (None for the default), and in `run` what does the work.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{command.name}",
        description=command.doc,
        epilog="examples:\n" + indent("\n".join(command.examples), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A wrong value is one line, as every other mistake; argparse would print the usage before it.
        exit_on_error=False,
    )
    verb = command.verbs.get(words[0]) if words else None
    chosen = verb or command.default
    if verb or not chosen:
        parser.add_argument("verb", choices=[words[0]] if verb else [*command.verbs])
    if chosen:
        chosen.add_arguments(parser)
        parser.set_defaults(run=chosen.run, configure=chosen.configure)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if "--show" in words and parser.get_default("show") is not None:
        # It asks about the recipe alone.
        for action in parser._actions:
            action.required &= action.dest == "recipe"
    try:
        return parser.parse_args(words, argparse.Namespace(verb=None))
    except argparse.ArgumentError as error:
        return parser.exit(2, f"error: {error}; see python -m jobs.{command.name} --help\n")


def _interrupt(*_: object) -> None:
    """End as after Ctrl-C: by the handler that a library has set for that, if one has."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)
    else:
        raise KeyboardInterrupt


def options_again(arguments: argparse.Namespace, *names: str) -> str:
    """Options as they were given, for a command that is printed: " --work DIR"; "" without any."""
    given = {name: getattr(arguments, name) for name in names}
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in given.items()
        if value is not None
    )


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """What reads an option's whole number from `least` to `most`; others are a usage error."""
    return _reader(int, least, most, f"a whole number from {least} to {most}")


def number(least: float, most: float) -> Callable[[str], float]:
    """What reads an option's number from `least` to `most`; NaN and others are a usage error."""
    return _reader(float, least, most, f"a number from {least:g} to {most:g}")


def _reader(kind: type[_Number], least: float, most: float, what: str) -> Callable[[str], _Number]:
    def read(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:  # also for thousands of digits
            value = None
        if value is None or not least <= value <= most:  # NaN is in no range
            raise argparse.ArgumentTypeError(f"{text[:_NUM_SHOWN]}: give {what}")
        return value

    return read


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


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Where things are: as `add_work` and `add_address` have parsed it, else as the environment says."""
    from infra.settings import read_settings

    return read_settings(work=arguments.work, ray_address=getattr(arguments, "address", None))


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add `--address`."""
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
