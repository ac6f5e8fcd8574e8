"""python -m jobs.promote NAME [--version N]: move the champion alias, if the gate lets it pass.

The challenger's evaluation is compared with the champion's on the same scenes and scenarios, or
with the source average while there is no champion.
"""

from __future__ import annotations

import argparse
import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, read_settings
from jobs.config import PromoteRecipe, add_recipe_arguments, find_recipe, override
from jobs.console import facts, run_command, say
from jobs.evaluate import ROWS
from jobs.recipes import PROMOTION
from pipelines.evaluation import BASELINE, MODEL, Row, read_rows
from pipelines.gate import Verdict, judge, judge_first

# Without these a version cannot be traced back to its data and code.
LINEAGE = ("dataset_digest", "git_commit", "stage1", "evaluation_run_id")


class Promoted(BaseModel):
    """What the gate decided; `champion` is the version that holds the alias now, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    version: str
    champion: str | None
    reasons: tuple[str, ...]


def promote(
    recipe: PromoteRecipe, settings: Settings, *, name: str, version: str | None = None
) -> Promoted:
    """Judge a version (default: the challenger) and make it the champion if it passes.

    Raises ValueError when it does not exist, was not evaluated, or lacks its lineage.
    """
    from infra import registry, tracking

    client = tracking.connect(settings)
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    with registry.promotion_lock(settings, name):
        challenger = registry.find_model(client, uri)
        champion = registry.find_alias(client, name, registry.CHAMPION)
        number = str(challenger.version)
        if champion and champion.version == challenger.version:
            say(f"  version {number} is the champion already")
            return Promoted(passed=True, version=number, champion=number, reasons=())
        verdict = _judge(recipe, settings, challenger, champion)
        against = f"version {champion.version}" if champion else "the source average"
        for reason in verdict.reasons:
            say(f"  {reason}")
        if champion and not verdict.comparisons:
            # They could not be compared at all: most likely on different scenes.
            same = f"models:/{name}/{champion.version} --scenes INDEX --split SPLIT"
            say(f"  the champion is measured anew with: python -m jobs.evaluate {same}")
        if verdict.passed:
            registry.promote(client, challenger, _evidence(challenger, against, verdict))
        facts(
            {
                "version": number,
                "against": against,
                "gate": "passed" if verdict.passed else "refused",
            }
        )
    holder = challenger if verdict.passed else champion
    return Promoted(
        passed=verdict.passed,
        version=number,
        champion=str(holder.version) if holder else None,
        reasons=verdict.reasons,
    )


def _judge(recipe: PromoteRecipe, settings: Settings, challenger: Any, champion: Any) -> Verdict:
    missing = [tag for tag in LINEAGE if not challenger.tags.get(tag)]
    if missing:
        raise ValueError(
            f"version {challenger.version} lacks {', '.join(missing)}; "
            f"run python -m jobs.evaluate models:/{challenger.name}/{challenger.version} first"
        )
    rows = _rows_of(challenger, settings)
    own = [row for row in rows if row["method"] == MODEL]
    if champion is None:
        baseline = [row for row in rows if row["method"] == BASELINE]
        return judge_first(own, baseline, recipe.gate)
    reference = [row for row in _rows_of(champion, settings) if row["method"] == MODEL]
    return judge(own, reference, recipe.gate)


def _rows_of(version: Any, settings: Settings) -> list[Row]:
    from infra import tracking

    run_id = version.tags["evaluation_run_id"]
    folder = settings.work / "cache" / run_id
    return read_rows(tracking.fetch_folder(run_id, "evaluation", folder) / ROWS)


def _evidence(challenger: Any, against: str, verdict: Verdict) -> dict[str, str]:
    return {
        "promoted_by": getpass.getuser(),
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "promoted_over": against,
        "promotion_reasons": json.dumps(verdict.reasons),
        "promotion_evidence": challenger.tags["evaluation_run_id"],
    }


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    recipe = override(find_recipe(PROMOTION, arguments.recipe), arguments.overrides)
    promoted = promote(recipe, settings, name=arguments.name, version=arguments.version)
    if not promoted.passed:
        raise ValueError(f"the gate refused version {promoted.version}, for the reasons above")
    say(f"next: python -m jobs.fuse models:/{arguments.name}@champion --vi … --ir … --out …")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.promote", description=__doc__)
    parser.add_argument("name", help="registered model, for example dspfusion")
    parser.add_argument("--version", help="version to promote (default: the challenger)")
    add_recipe_arguments(parser, PROMOTION, default="default")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
