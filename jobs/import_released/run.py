"""The authors' released weights, registered as a version."""

from __future__ import annotations

import tempfile
from pathlib import Path

from infra.settings import Settings, code_commit
from jobs.console import print_line
from jobs.train.records import REQUIREMENTS
from pipelines.bundles.export import write_bundle
from pipelines.bundles.released_weights import digests, read_released
from pipelines.promotion.evidence import bundle_evidence
from pipelines.store.seeding import digest_of


def import_files(folder: Path, settings: Settings, *, name: str) -> str:
    """Register the four files of `folder` as a version of `name`; return its models:/ URI.

    Raises ValueError naming the file or key that is missing, unexpected or of another shape.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    fuser = read_released(folder)
    client = tracking.connect(settings)
    tags = origin_tags(folder, name)
    done = tracking.find_run(client, tags["config_digest"])
    if done and done.info.status == "FINISHED":
        print_line("  these files are registered under this name already")
        return str(done.data.tags["registered_model"])
    config = {"model": fuser.config.model_dump(mode="json")}
    run = tracking.open_run(client, name="import_released", config=config, tags=tags)
    origin = {**tags, "run_id": run.info.run_id}
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
            bundle = Path(scratch) / "bundle"
            write_bundle(bundle, fuser.config, fuser, origin=origin)
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


def origin_tags(folder: Path, name: str) -> dict[str, str]:
    """Where the weights come from: that they are the authors', and which files they were."""
    files = {f"sha256_{file}": digest for file, digest in digests(folder).items()}
    return {
        "origin": "released",
        "system": "dspfusion",
        "config_digest": digest_of(["import_released", name, files]),
        "git_commit": code_commit(),
        **files,
    }
