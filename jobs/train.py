"""python -m jobs.train RECIPE [--set …]: train a stage with Ray Train, tracked in MLflow.

The same command again resumes an unfinished run, and reports a finished one without training.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from infra.settings import Settings, code_commit, read_settings
from jobs.config import (
    TrainRecipe,
    add_recipe_arguments,
    find_recipe,
    override,
    shrink_training,
)
from jobs.console import facts, progress, run_command, say
from jobs.recipes import TRAINING
from jobs.storage import open_datasets, open_folder
from jobs.train_pictures import MAP, index_of, preview_pairs, write_map, write_preview
from pipelines.checkpoints import read_config, weights_file
from pipelines.dataset import DatasetVersion, find_version, manifest_of
from pipelines.embedding import in_words
from pipelines.evidence import bundle_evidence
from pipelines.export import fuser_of_checkpoint, write_bundle
from pipelines.files import sha256_of_file, whole_folder
from pipelines.lineage import (
    CHECKPOINT,
    FOLDER,
    INPUTS,
    SCENES,
    run_inputs,
    scenes_of_version,
)
from pipelines.names import check_name
from pipelines.scenes import ScanResult, SceneTable, write_scenes
from pipelines.seeding import digest_of
from pipelines.training import (
    PREVIEW,
    Metrics,
    TrainingConfig,
    make_objective,
    read_stage1,
    run_training,
    share_of_step,
)

# What the registered model needs where it is served.
REQUIREMENTS = ["torch==2.13.0", "numpy>=2.0,<3"]


class Trained(BaseModel):
    """A finished run, and the version it registered, if its recipe says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    model: str | None


def train(
    recipe: TrainRecipe,
    settings: Settings,
    *,
    name: str,
    num_workers: int | None = None,
    compiled: bool = False,
) -> Trained:
    """Train `recipe` (called `name`) to its end, or find that it was. Raises ValueError on mistakes.

    On `num_workers` instead of the recipe's the steps stay the same, so it is the same run.
    """
    from infra import cluster, tracking

    client = tracking.connect(settings)
    datasets = open_datasets(settings)
    version = find_version(datasets, _dataset_of(recipe))
    config = training_config(recipe, version, settings, compiled=compiled)
    num_workers = num_workers or recipe.num_workers
    share_of_step(recipe.optim, recipe.num_workers, num_workers)  # refuses what cannot be shared
    inputs = inputs_of(recipe, version, config)
    digest = digest_of([*inputs.values()])
    before = tracking.find_run(client, digest)
    if before and before.info.status == "FINISHED":
        say(f"  this configuration is trained already: run {before.info.run_id}")
        return Trained(run_id=before.info.run_id, model=before.data.tags.get("registered_model"))
    # By value to the workers: none needs to see the folder that Stage I's weights lie in here.
    stage1 = read_stage1(config)
    make_objective(config, stage1)  # what is wrong shows here, not on the workers
    tags = run_tags(recipe, version, name=name, digest=digest)
    run_id = tracking.open_run(
        client,
        name=name,
        config=recipe.model_dump(mode="json"),
        tags=tags,
        dataset=tracking.DatasetRef(
            name=version.name,
            digest=version.digest[:36],
            uri=f"{datasets.uri}/{manifest_of(version.name)}",
        ),
    ).info.run_id
    facts({"run": run_id + (" (resumed)" if before else ""), "dataset": version.name})
    try:
        _log_lineage(client, run_id, inputs, version, settings)
        pairs = preview_pairs(version, settings) if recipe.preview_every else []
        # Ray Train resumes by name: the same run, and no other.
        folder_name = f"{name}-{digest[:12]}-{run_id[:8]}"
        kept = open_folder(f"{settings.runs}/{folder_name}", settings)
        loop = partial(run_training, datasets=datasets, stage1=stage1, pairs=pairs)
        with (
            cluster.connected(settings),
            tracking.system_metrics(client, run_id),
            watch(client, run_id, recipe.optim.num_steps),
        ):
            checkpoint = cluster.run_ddp(
                loop,
                config.model_dump(mode="json"),
                name=folder_name,
                settings=settings,
                num_workers=num_workers,
                use_gpu=recipe.use_gpu,
                on_report=tracking.ReportLogger(settings.tracking_uri, run_id, kept),
            )
        with cluster.fetched(checkpoint) as folder:
            tracking.log_folder(client, run_id, folder, "checkpoint")
            if recipe.objective.stage == "stage1":
                step = recipe.optim.num_steps
                _log_map(client, run_id, folder, version, settings, step=step)
            model = _register(client, recipe, folder, run_id, tags) if recipe.register_as else None
            made = {CHECKPOINT: sha256_of_file(folder / "state.json")}
    except BaseException as error:
        tracking.fail_run(client, run_id, error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            say("interrupted; the same command goes on from the last checkpoint")
        if isinstance(error, tracking.NO_ANSWER):
            raise ConnectionError(
                f"{error}; the checkpoint is kept: say the same command again when MLflow answers"
            ) from error
        raise
    tracking.finish_run(client, run_id, tags=made | ({"registered_model": model} if model else {}))
    return Trained(run_id=run_id, model=model)


def inputs_of(
    recipe: TrainRecipe, version: DatasetVersion, config: TrainingConfig
) -> dict[str, Any]:
    """Everything that decides the weights: settings, data, and Stage I's weights."""
    stage1 = sha256_of_file(weights_file(Path(config.stage1))) if config.stage1 else None
    return run_inputs(recipe.address(), version.digest, stage1)


def _log_map(
    client: Any,
    run_id: str,
    checkpoint: Path,
    version: DatasetVersion,
    settings: Settings,
    *,
    step: int,
) -> None:
    """Log the map of Stage I's degradation priors, and how well they are told apart, once."""
    from infra import tracking

    with tempfile.TemporaryDirectory(prefix="map-") as scratch:
        path = Path(scratch) / MAP
        found = write_map(path, checkpoint, version, settings)
        if path.exists():
            tracking.log_file(client, run_id, path)
    # A driver that died after this does it again, and a metric logged twice is there twice.
    logged = tracking.run_metrics_of(client, run_id, prefix="")
    if found and not found.keys() <= logged.keys():
        tracking.log_metrics(client, run_id, found, step=step)


def _log_lineage(
    client: Any,
    run_id: str,
    inputs: dict[str, Any],
    version: DatasetVersion,
    settings: Settings,
) -> None:
    """Keep with the run what `jobs.promote trace` goes back by: its inputs, its scenes' files."""
    from infra import tracking

    tracking.log_json(client, run_id, inputs, f"{FOLDER}/{INPUTS}")
    scenes = _scenes_of(version, settings)
    if scenes is None:
        say(f"  no index in {settings.work / 'scenes'} is the one of {version.name}: ")
        say("  jobs.promote trace will not find the way back to its source files")
        return
    with tempfile.TemporaryDirectory(prefix="lineage-") as scratch:
        write_scenes(ScanResult(scenes=scenes, refused=()), Path(scratch) / SCENES)
        tracking.log_folder(client, run_id, Path(scratch), FOLDER)


def _scenes_of(version: DatasetVersion, settings: Settings) -> SceneTable | None:
    """The scenes that a version was made of, from the work folder's index that its name begins with."""
    index = index_of(version, settings)
    return None if index is None else scenes_of_version(version, index)


def _dataset_of(recipe: TrainRecipe) -> str:
    if recipe.dataset is None:
        raise ValueError("which dataset? say --set dataset=NAME, as jobs.generate named it")
    return recipe.dataset


def training_config(
    recipe: TrainRecipe, version: DatasetVersion, settings: Settings, *, compiled: bool = False
) -> TrainingConfig:
    """Resolve names: the dataset version, and Stage I's checkpoint, fetched if it is `runs:/ID`."""
    return TrainingConfig(
        objective=recipe.objective,
        optim=recipe.optim,
        dataset=version.name,
        stage1=str(_stage1_folder(recipe.stage1, settings)) if recipe.stage1 else None,
        preview_every=recipe.preview_every,
        num_workers=recipe.num_workers,
        compiled=compiled,
    )


def run_tags(
    recipe: TrainRecipe, version: DatasetVersion, *, name: str, digest: str
) -> dict[str, str]:
    """Where a run comes from; the registered version gets them too."""
    tags = {
        "recipe": name,
        "config_digest": digest,
        "stage": recipe.objective.stage,
        "dataset_version": version.name,
        "dataset_digest": version.digest,
        "git_commit": code_commit(),
    }
    if recipe.stage1:
        tags["stage1"] = recipe.stage1
    return tags


def train_local(
    recipe: TrainRecipe, settings: Settings, *, name: str, compiled: bool = False
) -> Path:
    """Train in this process, without Ray and MLflow; return the last checkpoint's folder.

    Beside the checkpoints lie the previews and, after Stage I, the map of the degradation priors.
    """
    datasets = open_datasets(settings)
    version = find_version(datasets, _dataset_of(recipe))
    config = training_config(recipe, version, settings, compiled=compiled)
    digest = digest_of([*inputs_of(recipe, version, config).values()])
    if settings.runs.startswith("s3://"):
        raise ValueError(f"--local keeps its checkpoints in a folder, not at {settings.runs}")
    folder = Path(settings.runs) / f"{name}-{digest[:12]}-local"
    with progress("steps", recipe.optim.num_steps) as advance:

        def report(metrics: Metrics, scratch: Path | None) -> None:
            step = int(metrics["step"])
            advance(step, f"loss {metrics['loss']:.3f}")
            if PREVIEW in metrics:
                write_preview(folder, metrics[PREVIEW], step)
            if scratch:
                target = folder / f"step-{step:08d}"
                with whole_folder(target) as copy:
                    shutil.copytree(scratch, copy, dirs_exist_ok=True)
                for old in _local_checkpoints(folder)[:-2]:
                    shutil.rmtree(old)

        before = _local_checkpoints(folder)
        run_training(
            config.model_dump(mode="json"),
            datasets=datasets,
            stage1=read_stage1(config),
            rank=0,
            world_size=1,
            device="cuda" if torch.cuda.is_available() else "cpu",
            resume=before[::-1],
            report=report,
            pairs=preview_pairs(version, settings) if recipe.preview_every else [],
        )
    checkpoint = _local_checkpoints(folder)[-1]
    if recipe.objective.stage == "stage1":
        _write_local_map(folder / MAP, checkpoint, version, settings)
    return checkpoint


def _write_local_map(
    path: Path, checkpoint: Path, version: DatasetVersion, settings: Settings
) -> None:
    try:
        found = write_map(path, checkpoint, version, settings)
    except ModuleNotFoundError as absent:
        package = (absent.name or "").partition(".")[0]
        say(f"  no map of the degradation priors: {package} is not installed")
        return
    facts(in_words(found))


def _local_checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _stage1_folder(source: str, settings: Settings) -> Path:
    if not source.startswith("runs:/"):
        if not Path(source).is_dir():
            raise ValueError(
                f"stage1={source}: no such folder; a run's id is written runs:/{source}"
            )
        read_config(Path(source))
        return Path(source).resolve()
    from infra import tracking

    run_id = check_name(source.removeprefix("runs:/"), "stage1=runs:/ with the run")
    target = settings.work / "cache" / f"checkpoint-{run_id}"
    if not target.is_dir():
        with whole_folder(target) as folder:
            fetched = tracking.fetch_folder(run_id, "checkpoint", folder)
            for file in fetched.iterdir():
                file.rename(folder / file.name)
    return target


def _register(
    client: Any, recipe: TrainRecipe, checkpoint: Path, run_id: str, tags: dict[str, str]
) -> str:
    from infra import registry

    assert recipe.register_as is not None
    origin = {**tags, "run_id": run_id}
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        bundle = Path(scratch) / "bundle"
        config, fuser = fuser_of_checkpoint(checkpoint)
        write_bundle(bundle, config, fuser, origin=origin)
        version = registry.register_bundle(
            client,
            recipe.register_as,
            bundle,
            run_id=run_id,
            tags=origin | bundle_evidence(bundle),
            requirements=REQUIREMENTS,
        )
    return f"models:/{version.name}/{version.version}"


@contextmanager
def watch(client: Any, run_id: str, num_steps: int) -> Iterator[None]:
    """Show the run's progress from what the controller logs, wherever that runs.

    What a resumed run had logged before is not shown: it would count as done in no time.
    """
    from infra import tracking

    ended = threading.Event()
    resumed_at = max((step for step, _ in tracking.metric_curve(client, run_id, "loss")), default=0)
    with progress("steps", num_steps) as advance:

        def show() -> None:
            try:
                with tracking.asked_once(client.tracking_uri):
                    curve = tracking.metric_curve(client, run_id, "loss")
            except tracking.NO_ANSWER:  # training goes on without it; so does this
                return
            if curve and curve[-1][0] > resumed_at:
                advance(curve[-1][0], f"loss {curve[-1][1]:.3f}")

        def poll() -> None:
            while not ended.wait(1.0):
                show()

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            show()


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    recipe = find_recipe(TRAINING, arguments.recipe)
    if arguments.smoke:
        recipe = shrink_training(recipe)
    recipe = override(recipe, arguments.overrides)
    options = {"name": arguments.recipe, "compiled": arguments.compile}
    if arguments.local:
        if arguments.workers:
            raise ValueError("--local is one process; leave --workers out")
        say(f"checkpoint: {train_local(recipe, settings, **options)}")
        return
    trained = train(recipe, settings, num_workers=arguments.workers, **options)
    _say_next(arguments, recipe, trained)


def _say_next(arguments: argparse.Namespace, recipe: TrainRecipe, trained: Trained) -> None:
    first = recipe.objective.stage == "stage1"
    why_not = "a try-out" if arguments.smoke else "Stage II registers" if first else "by its recipe"
    facts({"run": trained.run_id, "model": trained.model or f"not registered ({why_not})"})
    if trained.model:
        say(f"next: python -m jobs.evaluate {trained.model} --scenes INDEX")
    elif first and recipe.objective.model.semantic_prior:
        stage2 = arguments.recipe.replace("stage1", "stage2") + " --smoke" * arguments.smoke
        source = f"--set dataset={recipe.dataset} --set stage1=runs:/{trained.run_id}"
        say(f"next: python -m jobs.train {stage2} {source}")
    elif arguments.smoke:
        say("next: the same without --smoke")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.train", description=__doc__)
    add_recipe_arguments(parser, TRAINING)
    parser.add_argument(
        "--local", action="store_true", help="in this process, without Ray and MLflow"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="share the recipe's steps among N workers; an unfinished run may be resumed so",
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks first")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
