"""python -m jobs.evaluate MODEL --scenes INDEX: measure a model under degradations, on Ray.

Every scene is degraded on the fly in each scenario, fused by the model and by the source average,
and measured against its high-quality sources. Rows and report go to an MLflow run; a registered
version is tagged with it, which is what `jobs.promote` asks for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
from jobs.fuse import bundle_of, resolve_model
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
from pipelines.scenes import Scene
from pipelines.seeding import digest_of

ROWS, REPORT = "rows.parquet", "report.html"
_SCENES_A_TASK = 2


class Evaluated(BaseModel):
    """A finished evaluation: of which version or bundle, its run, its folder, means by method.

    An alias is pinned when the evaluation starts, so `model` is what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    run_id: str
    folder: Path
    means: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Subject:
    """What is measured on what: everything that decides the numbers."""

    recipe: EvaluateRecipe
    model: str
    bundle: Path
    where: str
    scenes: tuple[Scene, ...]

    @property
    def tags(self) -> dict[str, str]:
        """Digests of model and scenes, and one of the whole."""
        weights = sha256_of_file(self.bundle / "model.safetensors")
        scenes = digest_of([scene.digest for scene in self.scenes])
        whole = [self.recipe.model_dump(mode="json"), weights, scenes, METRIC_VERSION]
        return {
            "model": self.model,
            "model_sha256": weights,
            "scenes": self.where,
            "scenes_digest": scenes,
            "config_digest": digest_of(whole),
        }


def evaluate(
    recipe: EvaluateRecipe,
    settings: Settings,
    *,
    model: str,
    scenes: str,
    split: str = "val",
    tag: bool = True,
) -> Evaluated:
    """Evaluate `model` on a split of the index called `scenes`, or find that it was.

    With `tag` a registered version is told of it, and the gate will judge it by this evaluation.
    Raises ValueError when model, index, split or a scenario does not exist.
    """
    from infra import tracking

    client = tracking.connect(settings)
    model = resolve_model(model, settings)
    chosen = load_index(settings, scenes).scenes.of_split(split)[: recipe.num_scenes]
    where = f"{Path(scenes).stem}-{split}"
    subject = _Subject(recipe, model, bundle_of(model, settings), where, tuple(chosen))
    tags = subject.tags
    folder = settings.work / "reports" / f"{where}-{tags['config_digest'][:12]}"
    done = tracking.find_run(client, tags["config_digest"])
    if done and done.info.status == "FINISHED" and (folder / ROWS).is_file():
        run_id = done.info.run_id
        say(f"  evaluated already: run {run_id}")
    else:
        run_id = tracking.open_run(
            client,
            name=f"evaluate-{where}",
            config=recipe.model_dump(mode="json"),
            tags={**tags, "git_commit": code_commit()},
        ).info.run_id
        try:
            write_rows(_measure(subject, settings), folder / ROWS)
            _report(client, subject, folder, run_id)
        except BaseException as error:
            tracking.fail_run(client, run_id, error)
            raise
    if tag:
        # Also where the numbers were there already: a second version may hold the same weights.
        _tag_version(client, model, run_id)
    return _evaluated(model, run_id, folder)


def _measure(subject: _Subject, settings: Settings) -> list[Row]:
    """Rows of all scenes under all scenarios, measured as Ray tasks."""
    from infra import cluster

    scenarios = [find_scenario(name) for name in subject.recipe.scenarios]
    # A few scenes a task: long enough to load the bundle once for them, short enough to share.
    starts = range(0, len(subject.scenes), _SCENES_A_TASK)
    parts = [subject.scenes[start : start + _SCENES_A_TASK] for start in starts]
    arguments = (str(subject.bundle), scenarios, subject.recipe.seed)
    rows: list[Row] = []
    with (
        cluster.connected(settings),
        progress("pictures", len(subject.scenes) * len(scenarios)) as advance,
    ):
        for part in cluster.map_tasks(evaluate_bundle, parts, *arguments):
            rows += part
            advance(len(rows) // 2)  # a row for the model, one for the baseline
    # The report takes the first method for the model.
    return sorted(rows, key=lambda row: (row["scenario"], row["scene"], row["method"] != MODEL))


def _report(client: Any, subject: _Subject, folder: Path, run_id: str) -> None:
    """Write the page and log everything to the run."""
    from infra import tracking

    rows = read_rows(folder / ROWS)
    write_report(
        folder / REPORT,
        title=f"{subject.model} on {subject.where}",
        facts=_report_facts(subject, run_id),
        rows=rows,
        examples=_examples(subject),
        curves=_curves(client, subject.bundle),
    )
    tracking.log_folder(client, run_id, folder, "evaluation")
    for method, means in _overall_means(rows).items():
        tracking.log_metrics(
            client, run_id, {f"{method}.{name}": value for name, value in means.items()}
        )
    tracking.finish_run(client, run_id)


def _evaluated(model: str, run_id: str, folder: Path) -> Evaluated:
    rows = read_rows(folder / ROWS)
    for line in format_table(summarise(rows), model=MODEL, baseline=BASELINE):
        say(f"  {line}")
    return Evaluated(model=model, run_id=run_id, folder=folder, means=_overall_means(rows))


def _overall_means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    summary = summarise(rows)
    return {
        method: {metric: summary.means[OVERALL, method, metric] for metric in summary.metrics}
        for method in summary.methods
    }


def _examples(subject: _Subject) -> list[Example]:
    """Pictures for the report: every scenario once, over the first few scenes in turn."""
    recipe, methods = subject.recipe, methods_of(subject.bundle)
    shown = subject.scenes[: recipe.num_examples]
    return [
        make_example(shown[index % len(shown)], find_scenario(name), methods, seed=recipe.seed)
        for index, name in enumerate(recipe.scenarios)
        if shown
    ]


def _report_facts(subject: _Subject, run_id: str) -> dict[str, str]:
    origin: Any = read_config(subject.bundle).get("origin", {})
    names = ("recipe", "dataset_version", "stage1", "run_id", "git_commit")
    return {name: origin[name] for name in names if name in origin} | {
        "evaluation run": run_id,
        "scenes": str(len(subject.scenes)),
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
        recipe,
        settings,
        model=arguments.model,
        scenes=arguments.scenes,
        split=arguments.split,
        # A try-out must not become what the gate judges a version by.
        tag=not arguments.smoke,
    )
    facts({"run": evaluated.run_id, "report": str(evaluated.folder / REPORT)})
    if arguments.model.startswith("models:/") and not arguments.smoke:
        name, _, number = evaluated.model.removeprefix("models:/").partition("/")
        say(f"next: python -m jobs.promote {name} --version {number}")


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
