"""Degraded pairs as files, for programs that are not ours: `jobs.evaluate export`."""

from __future__ import annotations

from pathlib import Path

from infra.settings import Settings
from jobs.console import print_line, progress
from jobs.evaluate.scenes import SceneChoice
from jobs.locations import source_reader
from jobs.placement import Placement, workers
from jobs.recipes.kinds import EvaluateRecipe
from pipelines.evaluation.exported_pairs import (
    MANIFEST,
    finish_export,
    left_to_export,
    make_pair,
    plan_export,
    write_pair,
)
from pipelines.scenarios.degraded_pairs import cases_of
from pipelines.scenarios.table import find_scenario


def export_pairs(
    recipe: EvaluateRecipe,
    settings: Settings,
    out: Path,
    scenes: SceneChoice,
    *,
    local: bool = False,
) -> int:
    """Write every scene under every scenario of a recipe into `out`; return how many pairs it holds.

    Pairs that it holds already are left as they are. On Ray, or `local` in this process. Raises
    ValueError where there is nothing to export, or `out` holds an export of other pairs.
    """
    chosen = scenes.load(settings, recipe.num_scenes)
    cases = cases_of(chosen, [find_scenario(name) for name in recipe.scenarios])
    if not cases:
        raise ValueError("no scene has the files of the captured scenarios; name others")
    plan = plan_export(cases, seed=recipe.seed)
    left = left_to_export(cases, out, plan)
    if len(left) < len(cases):
        print_line(f"  {len(cases) - len(left)} of {len(cases)} pairs were exported before")
    with (
        workers(Placement("cpu", local=local), settings) as there,
        progress("pairs", len(cases)) as advance,
    ):
        made = there.map(make_pair, left, recipe.seed, source_reader(settings))
        for done, files in enumerate(made, start=len(cases) - len(left) + 1):
            write_pair(files, out)
            advance(done, f"{files.case.scene.id}, {files.case.scenario.name}")
    finish_export(cases, out, plan)
    print_line(
        f"  a method takes {out}/SCENARIO/vi and ir, writes ITS_FOLDER/SCENARIO/SCENE.png, and gets a copy "
        f"of {out / MANIFEST}"
    )
    return len(cases)
