"""An evaluation: measured on Ray, logged to MLflow, reused when it is unchanged."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit
from jobs.config import EvaluateRecipe
from jobs.console import print_line, progress
from jobs.evaluate.report import make_report, overall_means
from jobs.evaluate.subject import PARTS, ROWS, Parts, Subject, check_subject
from jobs.fuse.run import bundle_of, resolve_model
from jobs.locations import source_reader
from jobs.scan.run import load_index
from pipelines.evaluation.measuring import choose_scenes, evaluate_scenes
from pipelines.evaluation.rows import BASELINE, MODEL, read_rows, write_rows
from pipelines.evaluation.summaries import by_dataset, format_datasets, format_table, summarise
from pipelines.promotion.lineage import SCENES
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import SceneTable

# The tag of an evaluation's run that says how to measure another version on the same scenes.
OPTIONS = "scenes_options"


class Evaluated(BaseModel):
    """A finished evaluation: of which version or bundle, its run, its folder, means by method.

    An alias is pinned when the evaluation starts, so `model` is what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    run_id: str
    folder: Path
    means: dict[str, dict[str, float]]


def evaluate(
    recipe: EvaluateRecipe,
    settings: Settings,
    *,
    model: str,
    scenes: str,
    split: str = "val",
    dataset: str | None = None,
    tag: bool = True,
    folders: Mapping[str, Path] | None = None,
) -> Evaluated:
    """Evaluate `model` on a split of the index called `scenes`, or reuse the finished evaluation.

    With `dataset` only on that data set of the index.
    With `tag` a registered version is tagged with the run, and the gate judges it by this evaluation.
    `folders` holds other methods' fused pictures of the clean pairs, by name.
    Raises ValueError when model, index, split, data set or a scenario does not exist, or a picture
    is missing.
    """
    from infra.cluster.connect import connected
    from infra.cluster.tasks import map_tasks
    from infra.registry import tracking

    client = tracking.connect(settings)
    model = resolve_model(model, settings)
    of_split = load_index(settings, scenes).scenes.of_split(split, dataset=dataset)
    chosen = choose_scenes(of_split, recipe.num_scenes)
    where = "-".join(filter(None, (Path(scenes).stem, dataset, split)))
    subject = Subject(
        recipe, model, bundle_of(model, settings), where, split, chosen, folders or {}
    )
    check_subject(subject)
    digest = subject.tags["config_digest"]
    folder = settings.work / "reports" / f"{where}-{digest[:12]}"
    done, is_measured = tracking.find_run(client, digest), (folder / ROWS).is_file()
    if done and done.info.status == "FINISHED" and is_measured:
        run_id = done.info.run_id
        print_line(f"  evaluated already: run {run_id}")
    else:
        asked = f"--scenes {shlex.quote(scenes)} --split {split}"
        asked += f" --dataset {dataset}" if dataset else ""
        with _run_of(client, subject, asked) as run_id:
            if not is_measured:
                parts = Parts(subject, folder / PARTS)
                left = parts.left()
                shared = subject.measurement, source_reader(settings)
                num_done = len(chosen) - sum(map(len, left))
                with connected(settings), progress("scenes", len(chosen)) as advance:
                    for rows in map_tasks(evaluate_scenes, left, *shared):
                        num_done += parts.keep(rows)
                        advance(num_done)
                write_rows(parts.rows(), folder / ROWS)
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            # The gate asks whether the version was trained on them.
            write_index(ScanResult(scenes=SceneTable.of(chosen), refused=()), folder / SCENES)
            print_line("  writing the report")
            make_report(client, subject, folder, run_id, settings)
    if tag:
        # Also when the rows are reused: a second version may hold the same weights.
        _tag_version(client, model, run_id)
    return _evaluated(model, run_id, folder)


@contextmanager
def _run_of(client: Any, subject: Subject, asked: str) -> Iterator[str]:
    """Open the evaluation's run, tagged with the options that name its scenes; mark it when it fails."""
    from infra.registry import tracking

    run = tracking.open_run(
        client,
        name=f"evaluate-{subject.where}",
        config=subject.recipe.model_dump(mode="json"),
        tags={**subject.tags, OPTIONS: asked, "git_commit": code_commit()},
    )
    try:
        yield run.info.run_id
    except BaseException as error:
        tracking.fail_run(client, run.info.run_id, error)
        raise


def _evaluated(model: str, run_id: str, folder: Path) -> Evaluated:
    rows = read_rows(folder / ROWS)
    for line in format_table(summarise(rows), model=MODEL, baseline=BASELINE):
        print_line(f"  {line}")
    parts = by_dataset(rows)
    if len(parts) > 1:
        for line in format_datasets(parts, model=MODEL, baseline=BASELINE):
            print_line(f"  {line}")
    return Evaluated(model=model, run_id=run_id, folder=folder, means=overall_means(rows))


def _tag_version(client: Any, model: str, run_id: str) -> None:
    if not model.startswith("models:/"):
        return
    from infra.registry import model_versions as registry

    version = registry.find_model(client, model)
    client.set_model_version_tag(version.name, version.version, "evaluation_run_id", run_id)
