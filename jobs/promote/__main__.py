"""python -m jobs.promote NAME [--version N]: move the champion alias, if the gate lets it pass.

The challenger's evaluation is compared with the champion's on the same scenes and scenarios, or
with the source average while there is no champion. Exit status 1 when the gate refuses.

python -m jobs.promote rollback NAME --reason TEXT   champion becomes the one before it
python -m jobs.promote history NAME                  who was champion, since when, why
python -m jobs.promote diff NAME A B                 lineage, settings, metrics side by side
python -m jobs.promote trace models:/NAME@champion   back to the source files; status 1 if broken
python -m jobs.promote parity NAME [--version N]     measure the served program against the module
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.command_line import (
    Command,
    Verb,
    add_recipe_arguments,
    add_work,
    options_again,
    settings_of,
)
from jobs.recipes import PROMOTION

if TYPE_CHECKING:
    from jobs.recipes.kinds import PromoteRecipe


def _read_gate(arguments: argparse.Namespace) -> PromoteRecipe:
    """The gate that a command line names. Raises ValueError for options that do not go together."""
    from jobs.config import read_recipe

    if bool(arguments.force) != bool(arguments.reason):
        raise ValueError("--force needs --reason TEXT, which is kept, and --reason needs --force")
    if arguments.smoke:
        raise ValueError("--smoke has no effect here: a promotion is judged by what was measured")
    return read_recipe(PROMOTION, arguments)


def _promote(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from jobs.promote.aliases import run_on_promotion
    from jobs.promote.decision import promote

    promoted = promote(
        _read_gate(arguments),
        settings_of(arguments),
        model=_model(arguments),
        dry_run=arguments.dry_run,
        force=arguments.reason,
        break_lock=arguments.break_lock,
    )
    if promoted.champion != promoted.version and not promoted.passed:
        print_line(f"the gate refused version {promoted.version}, for the reasons above")
        sys.exit(1)
    if promoted.moved:
        run_on_promotion(arguments.on_promotion, f"models:/{arguments.name}/{promoted.champion}")
    if not arguments.dry_run:
        where = options_again(arguments, "work")
        model = f"models:/{arguments.name}@champion"
        print_line(f"next: python -m jobs.fuse {model} --vi PATH --ir PATH --out PATH{where}")


def _rollback(arguments: argparse.Namespace) -> None:
    from jobs.promote.aliases import rollback, run_on_promotion

    settings = settings_of(arguments)
    event = rollback(
        settings, name=arguments.name, reason=arguments.reason, break_lock=arguments.break_lock
    )
    run_on_promotion(arguments.on_promotion, f"models:/{arguments.name}/{event.version}")


def _show_history(arguments: argparse.Namespace) -> None:
    from jobs.promote.show import show_history

    show_history(settings_of(arguments), name=arguments.name)


def _show_diff(arguments: argparse.Namespace) -> None:
    from jobs.promote.show import show_diff

    settings = settings_of(arguments)
    show_diff(settings, name=arguments.name, one=arguments.a, other=arguments.b)


def _trace(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from jobs.promote.trace import trace
    from pipelines.promotion.lineage import broken, tree_lines

    settings = settings_of(arguments)
    link = trace(settings, model=arguments.model, each_scene=arguments.scenes)
    for line in tree_lines(link):
        print_line(line)
    problems = broken(link)
    for problem in problems:
        print_line(f"broken: {problem}")
    if problems:
        sys.exit(1)
    print_line("every link holds")


def _measure_parity(arguments: argparse.Namespace) -> None:
    from jobs.promote.decision import measure_parity

    measure_parity(settings_of(arguments), model=_model(arguments))


def _model(arguments: argparse.Namespace) -> str:
    """The version that is named, or else the challenger."""
    name, version = arguments.name, arguments.version
    return f"models:/{name}/{version}" if version else f"models:/{name}@challenger"


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="registered model, for example dspfusion")
    add_work(parser)


def _add_move(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-promotion",
        metavar="COMMAND",
        help="run this when the champion is another, with its models:/NAME/VERSION as last word",
    )
    parser.add_argument(
        "--break-lock", action="store_true", help="take the lock of a promotion that died"
    )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", help="a version's number (default: the challenger)")


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("--reason", required=True, help="why, for the history")
    _add_move(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("a", metavar="A", help="a version's number, or an alias")
    parser.add_argument("b", metavar="B", help="the one to compare it with")


def _add_parity(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_version(parser)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    add_work(parser)
    parser.add_argument(
        "--scenes", action="store_true", help="list every scene with its checksums and URIs"
    )


def _add_promotion(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_version(parser)
    add_recipe_arguments(parser, PROMOTION, default="default")
    parser.add_argument("--dry-run", action="store_true", help="judge, and change nothing")
    parser.add_argument("--force", action="store_true", help="promote it even if the gate refuses")
    parser.add_argument("--reason", help="why it is forced, for the history")
    _add_move(parser)


COMMAND = Command(
    "promote",
    __doc__,
    [
        "python -m jobs.promote dspfusion --dry-run",
        "python -m jobs.promote dspfusion --version 3 --set gate.overall_margin=0.02",
        "python -m jobs.promote rollback dspfusion --reason 'stripes in the night scenes'",
    ],
    Verb(_add_promotion, _promote, _read_gate),
    verbs={
        "rollback": Verb(_add_rollback, _rollback),
        "history": Verb(_add_name, _show_history),
        "diff": Verb(_add_diff, _show_diff),
        "trace": Verb(_add_trace, _trace),
        "parity": Verb(_add_parity, _measure_parity),
    },
)


if __name__ == "__main__":
    COMMAND.run()
