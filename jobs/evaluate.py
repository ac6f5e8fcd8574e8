"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by the source average,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what `jobs.promote` asks for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, read_settings
from jobs.config import (
    EvaluateRecipe,
    add_recipe_arguments,
    find_recipe,
    override,
    shrink_evaluation,
)
from jobs.console import facts, progress, run_command, say
from jobs.fuse import bundle_of
from jobs.recipes import EVALUATION
from jobs.scan import load_index
from models.metrics import METRIC_VERSION
from pipelines.checkpoints import read_config
from pipelines.evaluation import (
    BASELINE,
    MODEL,
    OVERALL,
    Example,
    Row,
    evaluate_bundle,
    format_table,
    make_example,
    methods_of,
    read_rows,
    summarise,
    write_rows,
)
from pipelines.files import sha256_of_file
from pipelines.report import write_report
from pipelines.scenarios import find_scenario
from pipelines.scenes import Scene, scenes_of_split
from pipelines.seeding import digest_of

ROWS, REPORT = "rows.parquet", "report.html"
_SCENES_A_TASK = 2


class Evaluated(BaseModel):
    """A finished evaluation: its run, its folder (rows and report), the overall means by method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    folder: Path
    means: dict[str, dict[str, float]]


def evaluate(
    recipe: EvaluateRecipe, settings: Settings, *, model: str, scenes: str, split: str = "val"
) -> Evaluated:
    """Evaluate `model` on a split of the index called `scenes`, or find that it was.

    Raises ValueError when model, index, split or a scenario does not exist.
    """
    from infra import cluster, tracking

    client = tracking.connect(settings)
    bundle = bundle_of(model, settings)
    weights = sha256_of_file(bundle / "model.safetensors")
    chosen = scenes_of_split(load_index(settings, scenes).scenes, split)[: recipe.num_scenes]
    scenarios = [find_scenario(name) for name in recipe.scenarios]
    scene_digest = digest_of([scene.digest for scene in chosen])
    digest = digest_of([recipe.model_dump(mode="json"), weights, scene_digest, METRIC_VERSION])
    folder = settings.work / "reports" / f"{Path(scenes).stem}-{split}-{digest[:12]}"
    done = tracking.find_run(client, digest)
    if done and done.info.status == "FINISHED" and (folder / ROWS).is_file():
        say(f"  evaluated already: run {done.info.run_id}")
        return _evaluated(done.info.run_id, folder, read_rows(folder / ROWS))
    run_id = tracking.open_run(
        client,
        name=f"evaluate-{Path(scenes).stem}-{split}",
        config=recipe.model_dump(mode="json"),
        tags={
            "config_digest": digest,
            "model": model,
            "model_sha256": weights,
            "scenes": f"{scenes}/{split}",
            "scenes_digest": scene_digest,
            "git_commit": code_commit(),
        },
    ).info.run_id
    rows: list[Row] = []
    num_measured = len(chosen) * len(scenarios)
    with cluster.connected(settings), progress("pictures", num_measured) as advance:
        # A few scenes a task: long enough to load the bundle once for them, short enough to share.
        parts = [
            chosen[start : start + _SCENES_A_TASK]
            for start in range(0, len(chosen), _SCENES_A_TASK)
        ]
        for part in cluster.map_tasks(evaluate_bundle, parts, str(bundle), scenarios, recipe.seed):
            rows += part
            advance(len(rows) // 2)  # a row for the model, one for the baseline
    # The report takes the first method for the model.
    rows.sort(key=lambda row: (row["scenario"], row["scene"], row["method"] != MODEL))
    write_rows(rows, folder / ROWS)
    write_report(
        folder / REPORT,
        title=f"{model} on {scenes}/{split}",
        facts=_report_facts(bundle, run_id, len(chosen)),
        rows=rows,
        examples=_examples(recipe, chosen, bundle),
        curves=_curves(client, bundle),
    )
    evaluated = _evaluated(run_id, folder, rows)
    tracking.log_folder(client, run_id, folder, "evaluation")
    for method, means in evaluated.means.items():
        tracking.log_metrics(
            client, run_id, {f"{method}.{name}": value for name, value in means.items()}
        )
    tracking.finish_run(client, run_id)
    _tag_version(client, model, run_id)
    return evaluated


def _evaluated(run_id: str, folder: Path, rows: Sequence[Row]) -> Evaluated:
    summary = summarise(rows)
    for line in format_table(summary, model=MODEL, baseline=BASELINE):
        say(f"  {line}")
    means = {
        method: {metric: summary.means[OVERALL, method, metric] for metric in summary.metrics}
        for method in summary.methods
    }
    return Evaluated(run_id=run_id, folder=folder, means=means)


def _examples(recipe: EvaluateRecipe, scenes: Sequence[Scene], bundle: Path) -> list[Example]:
    """Pictures for the report: every scenario once, over the first few scenes in turn."""
    methods = methods_of(bundle)
    shown = scenes[: recipe.num_examples]
    return [
        make_example(shown[index % len(shown)], find_scenario(name), methods, seed=recipe.seed)
        for index, name in enumerate(recipe.scenarios)
        if shown
    ]


def _report_facts(bundle: Path, run_id: str, num_scenes: int) -> dict[str, str]:
    origin: Any = read_config(bundle).get("origin", {})
    names = ("recipe", "dataset_version", "stage1", "run_id", "git_commit")
    return {name: origin[name] for name in names if name in origin} | {
        "evaluation run": run_id,
        "scenes": str(num_scenes),
    }


def _curves(client: Any, bundle: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss curves of the runs that made the bundle, where this MLflow store has them."""
    from infra import tracking

    origin: Any = read_config(bundle).get("origin", {})
    runs = {
        "Stage I loss": origin.get("stage1", "").removeprefix("runs:/"),
        "Stage II loss": origin.get("run_id", ""),
    }
    return {
        title: curve
        for title, run_id in runs.items()
        if run_id and (curve := tracking.metric_curve(client, run_id, "loss"))
    }


def _tag_version(client: Any, model: str, run_id: str) -> None:
    if not model.startswith("models:/"):
        return
    from infra import registry

    version = registry.find_model(client, model)
    client.set_model_version_tag(version.name, version.version, "evaluation_run_id", run_id)


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    recipe = find_recipe(EVALUATION, arguments.recipe)
    if arguments.smoke:
        recipe = shrink_evaluation(recipe)
    recipe = override(recipe, arguments.overrides)
    evaluated = evaluate(
        recipe, settings, model=arguments.model, scenes=arguments.scenes, split=arguments.split
    )
    facts({"run": evaluated.run_id, "report": str(evaluated.folder / REPORT)})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--split", default="val")
    add_recipe_arguments(parser, EVALUATION, default="singles")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
