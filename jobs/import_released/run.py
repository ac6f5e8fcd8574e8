"""The authors' released weights, registered as a version."""

from __future__ import annotations

import tempfile
from pathlib import Path

from infra.settings import Settings, code_commit
from jobs.console import print_line
from jobs.train.records import REQUIREMENTS
from models.system import System
from pipelines.bundles.export import write_bundle
from pipelines.bundles.released_weights import digests, read_released, system_of_files
from pipelines.promotion.evidence import bundle_evidence
from pipelines.store.seeding import digest_of


def import_files(folder: Path, settings: Settings, *, name: str | None = None) -> str:
    """Register the files of `folder` as a version of `name` (SYSTEM-released); return its models:/ URI.

    Raises ValueError naming the file or key that is missing, unexpected or of another shape.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    system = system_of_files(folder)
    name = name or f"{system.name}-released"
    model_config, fuser = read_released(system, folder)
    client = tracking.connect(settings)
    tags = origin_tags(system, folder, name)
    done = tracking.find_run(client, tags["config_digest"])
    if done and done.info.status == "FINISHED":
        print_line("  these files are registered under this name already")
        return str(done.data.tags["registered_model"])
    config = {"model": model_config.model_dump(mode="json")}
    run = tracking.open_run(client, name="import_released", config=config, tags=tags)
    origin = {**tags, "run_id": run.info.run_id}
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
            bundle = Path(scratch) / "bundle"
            write_bundle(bundle, model_config, fuser, origin=origin)
            version = registry.register_bundle(
                client,
                name,
                bundle,
                run_id=run.info.run_id,
                tags=origin | bundle_evidence(bundle),
                requirements=REQUIREMENTS,
            )
    except BaseException as error:
        tracking.fail_run(client, run.info.run_id, error)
        raise
    model = f"models:/{version.name}/{version.version}"
    tracking.finish_run(client, run.info.run_id, tags={"registered_model": model})
    return model


def origin_tags(system: System, folder: Path, name: str) -> dict[str, str]:
    """Where the weights come from: that they are the authors', and which files they were."""
    files = {f"sha256_{file}": digest for file, digest in digests(system, folder).items()}
    return {
        "origin": "released",
        "system": system.name,
        "config_digest": digest_of(["import_released", name, files]),
        "git_commit": code_commit(),
        **files,
    }
