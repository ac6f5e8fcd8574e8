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
import getpass
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, read_settings
from jobs.config import PromoteRecipe, add_recipe_arguments, find_recipe, override
from jobs.console import facts, run_command, say
from jobs.evaluate import ROWS
from jobs.fuse import bundle_of
from jobs.promote_show import show_diff, show_history
from jobs.promote_trace import trace
from jobs.recipes import PROMOTION
from pipelines.evaluation import BASELINE, MODEL, Row, read_rows
from pipelines.evidence import EVALUATION, PARITY, bundle_evidence, missing_evidence
from pipelines.files import sha256_of_file
from pipelines.gate import Verdict, judge, judge_first
from pipelines.history import Event, below, champions, shortened
from pipelines.lineage import broken, tree_lines


class Promoted(BaseModel):
    """What the gate decided; `champion` is the version that holds the alias now, if any.

    A forced version is champion although it did not pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    version: str
    champion: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Decision:
    """A verdict on a challenger, and what it was judged by."""

    challenger: Any
    champion: Any
    verdict: Verdict
    rows_sha256: str | None

    @property
    def over(self) -> str | None:
        """The champion's number."""
        return str(self.champion.version) if self.champion else None

    @property
    def against(self) -> str:
        """What it was compared with, in words."""
        return f"version {self.over}" if self.over else "the source average"


def promote(
    recipe: PromoteRecipe,
    settings: Settings,
    *,
    name: str,
    version: str | None = None,
    dry_run: bool = False,
    force: str | None = None,
    break_lock: bool = False,
) -> Promoted:
    """Judge a version (default: the challenger) and make it the champion if it passes.

    `force` is the reason for which it becomes champion even if it does not. Raises ValueError when it
    does not exist or when another promotion of `name` is under way.
    """
    from infra import registry, tracking

    client = tracking.connect(settings)
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    registry.find_model(client, uri)  # a misspelt name needs no lock
    lock = registry.promotion_lock(client, name, holder=_who(), break_lock=break_lock)
    with nullcontext() if dry_run else lock as held:
        challenger = registry.find_model(client, uri)
        champion = registry.find_alias(client, name, registry.CHAMPION)
        number = str(challenger.version)
        if champion and champion.version == challenger.version:
            say(f"  version {number} is the champion already")
            return Promoted(passed=True, version=number, champion=number, reasons=())
        decision = _decide(recipe, settings, client, challenger, champion)
        moved = not dry_run and (decision.verdict.passed or force is not None)
        if moved:
            _record(client, held, decision, force)
        _tell(decision, dry_run=dry_run, forced=moved and not decision.verdict.passed)
    return Promoted(
        passed=decision.verdict.passed,
        version=number,
        champion=number if moved else decision.over,
        reasons=decision.verdict.reasons,
    )


def _decide(
    recipe: PromoteRecipe, settings: Settings, client: Any, challenger: Any, champion: Any
) -> _Decision:
    from infra import tracking

    run = tracking.run_tags_of(client, challenger.tags.get(EVALUATION))
    reasons = missing_evidence(challenger.tags, run, parity_tolerance=recipe.parity_tolerance)
    if reasons:
        rule = "nothing is judged without its lineage, parity and evaluation"
        verdict = Verdict(passed=False, rule=rule, reasons=reasons, comparisons=())
        return _Decision(challenger, champion, verdict, None)
    rows, digest = _rows_of(challenger, settings)
    own = [row for row in rows if row["method"] == MODEL]
    if champion is None:
        baseline = [row for row in rows if row["method"] == BASELINE]
        return _Decision(challenger, None, judge_first(own, baseline, recipe.gate), digest)
    reference = []
    if champion.tags.get(EVALUATION):
        reference = [row for row in _rows_of(champion, settings)[0] if row["method"] == MODEL]
    return _Decision(challenger, champion, judge(own, reference, recipe.gate), digest)


def _rows_of(version: Any, settings: Settings) -> tuple[list[Row], str]:
    """The rows that a version is judged by, and their file's digest."""
    from infra import tracking

    run_id = version.tags[EVALUATION]
    folder = settings.work / "cache" / run_id
    path = tracking.fetch_folder(run_id, "evaluation", folder) / ROWS
    return read_rows(path), sha256_of_file(path)


def _record(client: Any, lock: Any, decision: _Decision, force: str | None) -> None:
    """Write who, when, why and by what evidence, and move the aliases."""
    from infra import registry, tracking

    verdict, challenger = decision.verdict, decision.challenger
    evidence = challenger.tags.get(EVALUATION)
    event = Event(
        action="promote" if verdict.passed else "force",
        version=str(challenger.version),
        over=decision.over,
        by=_who(),
        at=_now(),
        commit=code_commit(),
        reason=force,
        reasons=shortened(verdict.reasons),
        evidence=evidence,
        rows_sha256=decision.rows_sha256,
    )
    tags = {
        "promoted_by": event.by,
        "promoted_at": event.at,
        "promoted_over": decision.against,
        "promotion_reasons": json.dumps(event.reasons),
        "promotion_evidence": evidence or "none",
        "promotion_rows_sha256": decision.rows_sha256 or "none",
        "promotion_forced": force if force and not verdict.passed else "no",
    }
    if evidence and verdict.comparisons:
        # Every comparison with its interval, where a tag has no room for it.
        file = f"promotion/{challenger.name}-{challenger.version}-{event.at}.json"
        tracking.log_json(client, evidence, verdict.model_dump(mode="json"), file)
    _move(client, lock, challenger.name, event, previous=decision.over)
    registry.tag_version(client, challenger, tags)


def _move(client: Any, lock: Any, name: str, event: Event, *, previous: str | None) -> None:
    """Announce the event, move the aliases, mark it finished: what dies in between shows."""
    from infra import registry

    number = max(registry.read_events(client, name), default=0) + 1
    lock.check()
    registry.write_event(client, name, number, event.model_dump(mode="json"))
    registry.move_champion(client, name, event.version, previous=previous)
    finished = event.model_copy(update={"finished": True})
    registry.write_event(client, name, number, finished.model_dump(mode="json"))


def rollback(settings: Settings, *, name: str, reason: str, break_lock: bool = False) -> Event:
    """Make the previous champion the champion again; a second one goes one further back.

    Raises ValueError when there is no previous one, or another promotion is under way.
    """
    from infra import registry, tracking

    client = tracking.connect(settings)
    registry.read_events(client, name)  # a misspelt name needs no lock
    with registry.promotion_lock(client, name, holder=_who(), break_lock=break_lock) as lock:
        champion = registry.find_alias(client, name, registry.CHAMPION)
        previous = registry.find_alias(client, name, registry.PREVIOUS)
        if champion is None:
            raise ValueError(f"{name!r} has no champion to roll back from")
        if previous is None or previous.version == champion.version:
            raise ValueError(
                f"no champion of {name!r} came before version {champion.version}; to put another "
                f"one there: python -m jobs.promote {name} --version N"
            )
        target = str(previous.version)
        event = Event(
            action="rollback",
            version=target,
            over=str(champion.version),
            by=_who(),
            at=_now(),
            commit=code_commit(),
            reason=reason,
        )
        events = [Event(**event) for event in registry.read_events(client, name).values()]
        _move(client, lock, name, event, previous=below(champions(events), target))
    facts({"champion": f"version {target}", "rolled back from": f"version {event.over}"})
    return event


def measure_parity(settings: Settings, *, name: str, version: str | None = None) -> dict[str, str]:
    """Measure a registered version's program against its module, and keep that in its tags."""
    from infra import registry, tracking

    client = tracking.connect(settings)
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    found = registry.find_model(client, uri)
    evidence = bundle_evidence(bundle_of(f"models:/{name}/{found.version}", settings))
    registry.tag_version(client, found, evidence)
    facts({"version": str(found.version), "largest difference": evidence[PARITY]})
    return evidence


def _tell(decision: _Decision, *, dry_run: bool, forced: bool) -> None:
    for reason in decision.verdict.reasons:
        say(f"  {reason}")
    if decision.champion and not decision.verdict.comparisons and decision.rows_sha256:
        # They could not be compared at all: most likely on different scenes.
        same = f"models:/{decision.challenger.name}/{decision.over} --scenes INDEX --split SPLIT"
        say(f"  the champion is measured anew with: python -m jobs.evaluate {same}")
    gate = "passed" if decision.verdict.passed else "refused"
    facts(
        {
            "version": str(decision.challenger.version),
            "against": decision.against,
            "gate": gate + (", and forced" if forced else ""),
        }
    )
    if dry_run:
        say("  nothing was changed (--dry-run)")


def _who() -> str:
    try:
        user = getpass.getuser()
    except KeyError:  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _main(arguments: argparse.Namespace) -> None:
    if bool(arguments.force) != bool(arguments.reason):
        raise ValueError("--force needs --reason TEXT, which is kept, and --reason needs --force")
    if arguments.smoke:
        raise ValueError("--smoke has no effect here: a promotion is judged by what was measured")
    settings = read_settings(work=arguments.work)
    recipe = override(find_recipe(PROMOTION, arguments.recipe), arguments.overrides)
    promoted = promote(
        recipe,
        settings,
        name=arguments.name,
        version=arguments.version,
        dry_run=arguments.dry_run,
        force=arguments.reason,
        break_lock=arguments.break_lock,
    )
    if promoted.champion != promoted.version and not promoted.passed:
        say(f"the gate refused version {promoted.version}, for the reasons above")
        sys.exit(1)
    if not arguments.dry_run:
        say(f"next: python -m jobs.fuse models:/{arguments.name}@champion --vi … --ir … --out …")


def _main_rollback(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    rollback(
        settings, name=arguments.name, reason=arguments.reason, break_lock=arguments.break_lock
    )


def _main_history(arguments: argparse.Namespace) -> None:
    show_history(read_settings(work=arguments.work), name=arguments.name)


def _main_diff(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    show_diff(settings, name=arguments.name, one=arguments.a, other=arguments.b)


def _main_trace(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    link = trace(settings, model=arguments.model, each_scene=arguments.scenes)
    for line in tree_lines(link):
        say(line)
    problems = broken(link)
    for problem in problems:
        say(f"broken: {problem}")
    if problems:
        sys.exit(1)
    say("every link holds")


def _main_parity(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    measure_parity(settings, name=arguments.name, version=arguments.version)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="registered model, for example dspfusion")


def _add_break_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--break-lock", action="store_true", help="take the lock of a promotion that died"
    )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", help="a version's number (default: the challenger)")


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("--reason", required=True, help="why, for the history")
    _add_break_lock(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("a", metavar="A", help="a version's number, or an alias")
    parser.add_argument("b", metavar="B", help="the one to compare it with")


def _add_parity(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_version(parser)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument(
        "--scenes", action="store_true", help="list every scene with its checksums and URIs"
    )


def _add_promotion(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_version(parser)
    add_recipe_arguments(parser, PROMOTION, default="default")
    parser.add_argument("--dry-run", action="store_true", help="judge, and change nothing")
    parser.add_argument("--force", action="store_true", help="promote it whatever the gate says")
    parser.add_argument("--reason", help="why it is forced, for the history")
    _add_break_lock(parser)


_Add = Callable[[argparse.ArgumentParser], None]
_Run = Callable[[argparse.Namespace], None]
# Recognised before the names of models.
_VERBS: dict[str, tuple[_Add, _Run]] = {
    "rollback": (_add_rollback, _main_rollback),
    "history": (_add_name, _main_history),
    "diff": (_add_diff, _main_diff),
    "trace": (_add_trace, _main_trace),
    "parity": (_add_parity, _main_parity),
}


def main() -> None:
    """Run the command: a verb when the first word is one, else a promotion."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.promote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    add, run = _VERBS.get(verb, (_add_promotion, _main))
    if verb in _VERBS:
        parser.add_argument("verb", choices=[verb])
    add(parser)
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(run, parser)


if __name__ == "__main__":
    main()
