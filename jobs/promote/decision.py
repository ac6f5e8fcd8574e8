"""What `jobs.promote NAME` does: judge a version by its evidence, and record what was decided."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, who_runs
from jobs.config import PromoteRecipe
from jobs.console import print_facts, print_line
from jobs.evaluate.subject import ROWS
from jobs.fuse.run import bundle_of
from jobs.promote.aliases import move_champion, time_now
from pipelines.evaluation.rows import BASELINE, MODEL, Row, read_rows
from pipelines.promotion.evidence import EVALUATION, PARITY, bundle_evidence, missing_evidence
from pipelines.promotion.gate import Verdict, judge, judge_first
from pipelines.promotion.history import Event, shortened
from pipelines.store.files import sha256_of_file


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
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    registry.find_model(client, uri)  # a misspelt name needs no lock
    lock = registry.promotion_lock(client, name, holder=who_runs(), break_lock=break_lock)
    with nullcontext() if dry_run else lock as held:
        challenger = registry.find_model(client, uri)
        champion = registry.find_alias(client, name, registry.CHAMPION)
        number = str(challenger.version)
        if champion and champion.version == challenger.version:
            print_line(f"  version {number} is the champion already")
            return Promoted(passed=True, version=number, champion=number, reasons=())
        decision = _decide(recipe, settings, client, challenger, champion)
        moved = not dry_run and (decision.verdict.passed or force is not None)
        if moved:
            _record(client, held, decision, force)
        _print_decision(decision, dry_run=dry_run, forced=moved and not decision.verdict.passed)
    return Promoted(
        passed=decision.verdict.passed,
        version=number,
        champion=number if moved else decision.over,
        reasons=decision.verdict.reasons,
    )


def _decide(
    recipe: PromoteRecipe, settings: Settings, client: Any, challenger: Any, champion: Any
) -> _Decision:
    from infra.registry import tracking

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
    from infra.registry import tracking

    run_id = version.tags[EVALUATION]
    folder = settings.work / "cache" / run_id
    path = tracking.fetch_folder(run_id, "evaluation", folder) / ROWS
    return read_rows(path), sha256_of_file(path)


def _record(client: Any, lock: Any, decision: _Decision, force: str | None) -> None:
    """Write who, when, why and by what evidence, and move the aliases."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    verdict, challenger = decision.verdict, decision.challenger
    evidence = challenger.tags.get(EVALUATION)
    event = Event(
        action="promote" if verdict.passed else "force",
        version=str(challenger.version),
        over=decision.over,
        by=who_runs(),
        at=time_now(),
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
    move_champion(client, lock, challenger.name, event, previous=decision.over)
    registry.tag_version(client, challenger, tags)


def _print_decision(decision: _Decision, *, dry_run: bool, forced: bool) -> None:
    for reason in decision.verdict.reasons:
        print_line(f"  {reason}")
    if decision.champion and not decision.verdict.comparisons and decision.rows_sha256:
        # They could not be compared at all: most likely on different scenes.
        same = f"models:/{decision.challenger.name}/{decision.over} --scenes INDEX --split SPLIT"
        print_line(f"  measure the champion again with: python -m jobs.evaluate {same}")
    gate = "passed" if decision.verdict.passed else "refused"
    print_facts(
        {
            "version": str(decision.challenger.version),
            "against": decision.against,
            "gate": gate + (", and forced" if forced else ""),
        }
    )
    if dry_run:
        print_line("  nothing was changed (--dry-run)")


def measure_parity(settings: Settings, *, name: str, version: str | None = None) -> dict[str, str]:
    """Measure a registered version's program against its module, and keep that in its tags."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    found = registry.find_model(client, uri)
    evidence = bundle_evidence(bundle_of(f"models:/{name}/{found.version}", settings))
    registry.tag_version(client, found, evidence)
    print_facts({"version": str(found.version), "largest difference": evidence[PARITY]})
    return evidence
