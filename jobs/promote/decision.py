"""What `jobs.promote NAME` does: judge a version by its evidence, and record what was decided."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, who_runs
from jobs.console import print_facts, print_line
from jobs.evaluate.run import OPTIONS
from jobs.evaluate.subject import ROWS
from jobs.fuse.run import bundle_of
from jobs.promote.aliases import move_champion, time_now
from jobs.promote.describe import describe_version
from jobs.promote.versions import fetch_evaluation, former_champions, trained_scenes
from jobs.recipes.kinds import PromoteRecipe
from pipelines.promotion.evidence import (
    EVALUATION,
    PARITY,
    RELEASED,
    bundle_evidence,
    missing_evidence,
    off_protocol,
    seen_in_training,
)
from pipelines.promotion.gate import Verdict, best_reference, judge, judge_first
from pipelines.promotion.history import Event, shortened
from pipelines.promotion.lineage import SCENES
from pipelines.promotion.paired_rows import pairing_refusals
from pipelines.results.rows import BASELINE, MODEL, Row, read_rows
from pipelines.sources.index import read_index
from pipelines.store.files import sha256_of_file


class Promoted(BaseModel):
    """What the gate decided; `champion` is the version that holds the alias now, if any.

    A forced version is champion although it did not pass. `moved` is whether this made it the champion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    version: str
    champion: str | None
    reasons: tuple[str, ...]
    moved: bool = False


@dataclass(frozen=True)
class _Decision:
    """A verdict on a challenger, and what it was judged by."""

    challenger: Any
    champion: Any
    verdict: Verdict
    rows_sha256: str | None
    scenes_options: str = "--scenes INDEX --split SPLIT"

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
    model: str,
    dry_run: bool = False,
    force: str | None = None,
    break_lock: bool = False,
) -> Promoted:
    """Judge a version, by its URI, and make it the champion if it passes.

    `force` is the reason for which it becomes champion even if it does not. Raises ValueError when it
    does not exist or when another promotion of the same model is under way.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    name = registry.find_model(client, model).name  # a misspelt one needs no lock
    lock = registry.promotion_lock(client, name, holder=who_runs(), break_lock=break_lock)
    with nullcontext() if dry_run else lock as held:
        challenger = registry.find_model(client, model)
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
        moved=moved,
    )


def _decide(
    recipe: PromoteRecipe, settings: Settings, client: Any, challenger: Any, champion: Any
) -> _Decision:
    from infra.registry import tracking

    run = tracking.run_tags_of(client, challenger.tags.get(EVALUATION))
    reasons = missing_evidence(challenger.tags, run, parity_tolerance=recipe.parity_tolerance)
    if reasons:
        return _Decision(challenger, champion, _not_judged(reasons), None)
    assert run is not None
    evaluation = fetch_evaluation(challenger, settings)
    rows, digest = read_rows(evaluation / ROWS), sha256_of_file(evaluation / ROWS)
    reasons = off_protocol(run, rows, split=recipe.split, scenarios=recipe.scenarios)
    if challenger.tags.get("origin") != RELEASED:  # trained elsewhere, nobody knows on what
        measured = read_index(evaluation / SCENES).scenes
        reasons += seen_in_training(measured, trained_scenes(client, challenger, settings))
    if reasons:
        return _Decision(challenger, champion, _not_judged(reasons), digest)
    own = _judged(rows, MODEL, recipe)
    if champion is None:
        verdict = judge_first(own, _judged(rows, BASELINE, recipe), recipe.gate)
    else:
        verdict = _against_champions(recipe, settings, client, own, champion)
    options = run.get(OPTIONS, _Decision.scenes_options)
    return _Decision(challenger, champion, verdict, digest, options)


def _not_judged(reasons: tuple[str, ...]) -> Verdict:
    rule = "nothing is judged without its lineage, parity and evaluation"
    return Verdict(passed=False, rule=rule, reasons=reasons, comparisons=())


def _against_champions(
    recipe: PromoteRecipe, settings: Settings, client: Any, own: list[Row], champion: Any
) -> Verdict:
    """Judge against the champion, and against the best champion before it where that was better.

    A series of promotions, each a little worse than the last, would end far below the best.
    """
    number = str(champion.version)
    comparable = {number: _measured(champion, settings, recipe)}
    verdict = judge(own, comparable[number], recipe.gate)
    if not verdict.comparisons:  # they do not pair
        return verdict
    for version in former_champions(client, champion):
        rows = _measured(version, settings, recipe)
        found = pairing_refusals(own, rows, recipe.gate.watched, recipe.gate.min_scenes)
        if found:
            print_line(f"  version {version.version}, a former champion, is left out: {found[0]}")
        else:
            comparable[str(version.version)] = rows
    best = best_reference(comparable, number, recipe.gate.watched)
    if best == number:
        return verdict
    title = f"best former champion, version {best}"
    former = judge(own, comparable[best], recipe.gate, reference=title)
    return verdict.model_copy(
        update={
            "passed": verdict.passed and former.passed,
            "rule": f"{verdict.rule}; {former.rule}",
            "reasons": (*verdict.reasons, *former.reasons),
        }
    )


def _measured(version: Any, settings: Settings, recipe: PromoteRecipe) -> list[Row]:
    """What a version's evaluation measured of it; nothing for one that was not evaluated."""
    if not version.tags.get(EVALUATION):
        return []
    return _judged(read_rows(fetch_evaluation(version, settings) / ROWS), MODEL, recipe)


def _judged(rows: list[Row], method: str, recipe: PromoteRecipe) -> list[Row]:
    return [row for row in rows if row["method"] == method and row["scenario"] in recipe.scenarios]


def _record(client: Any, lock: Any, decision: _Decision, force: str | None) -> None:
    """Write who, when, why and by what evidence, and move the aliases."""
    from infra.registry import model_versions as registry

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
        client.log_dict(evidence, verdict.model_dump(mode="json"), file)
    move_champion(client, lock, challenger.name, event, previous=decision.over)
    registry.tag_version(client, challenger, tags)
    describe_version(client, challenger.name, str(challenger.version))


def _print_decision(decision: _Decision, *, dry_run: bool, forced: bool) -> None:
    for reason in decision.verdict.reasons:
        print_line(f"  {reason}")
    if decision.champion and not decision.verdict.comparisons and decision.rows_sha256:
        # They could not be compared at all: most likely on different scenes.
        same = f"models:/{decision.challenger.name}/{decision.over} {decision.scenes_options}"
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


def measure_parity(settings: Settings, *, model: str) -> dict[str, str]:
    """Measure a registered version's program against its module, and keep that in its tags."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    found = registry.find_model(client, model)
    evidence = bundle_evidence(bundle_of(f"models:/{found.name}/{found.version}", settings))
    registry.tag_version(client, found, evidence)
    print_facts({"version": str(found.version), "largest difference": evidence[PARITY]})
    return evidence
