"""What a training logs to MLflow beside its reports: its run, lineage, results and the version."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.periodic import periodically
from infra.settings import Settings
from jobs.console import print_line, progress
from jobs.promote.describe import describe_version
from jobs.train.inputs import Planned
from jobs.train.task import describe_ending
from jobs.train.visuals import MAP, write_map
from models import system_of
from pipelines.bundles.degradation_types import types_of_pictures
from pipelines.bundles.export import fuser_of_checkpoint, write_bundle
from pipelines.datasets.versions import manifest_of
from pipelines.probes.known_pictures import stored_pictures
from pipelines.promotion.evidence import bundle_evidence
from pipelines.promotion.lineage import CHECKPOINT, FOLDER, INPUTS, SCENES
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult
from pipelines.store.files import sha256_of_file
from pipelines.training.checkpoints import read_state

# What the registered model needs where it is served.
REQUIREMENTS = ["torch==2.13.0", "numpy>=2.0,<3"]
# The tag of a run that names the version it registered, and the artifact folder of its checkpoint.
REGISTERED = "registered_model"
_CHECKPOINT = "checkpoint"


def open_training_run(client: Any, planned: Planned) -> str:
    """Open the training's run, or reopen the unfinished one; return its id."""
    from infra.registry import tracking

    version = planned.version
    run = tracking.open_run(
        client,
        name=planned.name,
        config=planned.config.model_dump(mode="json"),
        tags=planned.tags,
        dataset=tracking.DatasetRef(
            name=version.name,
            digest=version.digest[:36],
            uri=f"{planned.datasets.uri}/{manifest_of(version.name)}",
        ),
    )
    return str(run.info.run_id)


def log_lineage(client: Any, run_id: str, planned: Planned, settings: Settings) -> None:
    """Log what `jobs.promote trace` reads: the run's inputs, and the files of its scenes."""
    from infra.registry import tracking

    client.log_dict(run_id, planned.inputs, f"{FOLDER}/{INPUTS}")
    trained = planned.sources.trained
    if trained is None:
        print_line(f"  no index in {settings.work / 'scenes'} matches {planned.version.name}: ")
        print_line("  jobs.promote trace will not find its source files")
        return
    with tempfile.TemporaryDirectory(prefix="lineage-") as scratch:
        write_index(ScanResult(scenes=trained, refused=()), Path(scratch) / SCENES)
        tracking.log_folder(client, run_id, Path(scratch), FOLDER)


def log_results(
    client: Any,
    run_id: str,
    planned: Planned,
    checkpoint: Path,
    settings: Settings,
) -> dict[str, str]:
    """Log the last checkpoint and the probe's map, register the model; return the run's last tags."""
    from infra.registry import tracking

    config = planned.config
    tracking.log_folder(client, run_id, checkpoint, _CHECKPOINT)
    if config.stage.is_probed:
        _log_map(client, run_id, planned, checkpoint, settings)
    tags = {CHECKPOINT: sha256_of_file(checkpoint / "state.json")}
    tags |= describe_ending(checkpoint, config)
    model = register_once(client, run_id, planned, checkpoint)
    return tags | ({REGISTERED: model} if model else {})


def register_once(
    client: Any, run_id: str, planned: Planned, checkpoint: Path | None = None
) -> str | None:
    """The version of a run's model under the recipe's name, registered now if it is not; its URI.

    None for a recipe that registers nothing. `checkpoint` is the run's last; without, it is fetched.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    name = planned.config.register_as
    if name is None:
        return None
    version = registry.resume_registration(client, name, run_id)
    if version is None:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            folder = checkpoint or tracking.fetch_folder(run_id, _CHECKPOINT, Path(scratch))
            version = _register(client, name, folder, run_id, planned)
    describe_version(client, name, str(version.version))
    return f"models:/{version.name}/{version.version}"


def _log_map(
    client: Any, run_id: str, planned: Planned, checkpoint: Path, settings: Settings
) -> None:
    """Log the map of the system's probe, and how well it separates the degradations, once."""
    from infra.registry import tracking

    with tempfile.TemporaryDirectory(prefix="map-") as scratch:
        path = Path(scratch) / MAP
        found = write_map(path, checkpoint, planned.version, planned.sources.unseen, settings)
        if path.exists():
            client.log_artifact(run_id, str(path))
    # A restarted driver comes here again, and MLflow keeps both values of a metric.
    logged = tracking.run_metrics_of(client, run_id, prefix="")
    if found and not found.keys() <= logged.keys():
        tracking.log_metrics(client, run_id, found, step=read_state(checkpoint).step)


def _register(client: Any, name: str, checkpoint: Path, run_id: str, planned: Planned) -> Any:
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    # As the run has them: it may have been resumed by other code than it began with.
    of_run = tracking.run_tags_of(client, run_id) or {}
    origin = {key: of_run.get(key, value) for key, value in planned.tags.items()}
    origin["run_id"] = run_id
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        bundle = Path(scratch) / "bundle"
        config, fuser = fuser_of_checkpoint(checkpoint)
        # What `jobs.serve` and `jobs.fuse` tell of a pair: learnt here, where the pictures are.
        pictures = stored_pictures(planned.version, planned.datasets)
        types = types_of_pictures(system_of(config), fuser, pictures)
        write_bundle(bundle, config, fuser, origin=origin, types=types)
        return registry.register_bundle(
            client,
            name,
            bundle,
            run_id=run_id,
            tags=origin | bundle_evidence(bundle),
            requirements=REQUIREMENTS,
        )


@contextmanager
def watch(client: Any, run_id: str, num_steps: int) -> Iterator[None]:
    """Show the run's progress from what the controller logs, on whatever node it runs.

    Steps from before a resume are not shown: they would distort the pace.
    """
    from infra.registry import tracking

    resumed_at = max((step for step, _ in tracking.metric_curve(client, run_id, "loss")), default=0)
    with progress("steps", num_steps) as advance:

        def show() -> None:
            try:
                with tracking.without_retries(client.tracking_uri):
                    curve = tracking.metric_curve(client, run_id, "loss")
            except tracking.NO_ANSWER:  # the next call may answer; training does not depend on it
                return
            if curve and curve[-1][0] > resumed_at:
                advance(curve[-1][0], f"loss {curve[-1][1]:.3f}")

        try:
            with periodically(show, every_s=1.0):
                yield
        finally:
            show()
