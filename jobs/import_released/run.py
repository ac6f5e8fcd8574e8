"""Weights that no run of ours has trained, registered as a version: the authors' released files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from infra.settings import Settings, code_commit
from jobs.console import print_line
from jobs.promote.describe import describe_version
from jobs.train.records import REQUIREMENTS
from models.system import System
from pipelines.bundles.degradation_types import DegradationTypes
from pipelines.bundles.export import write_bundle
from pipelines.bundles.released_weights import digests, read_released, system_of_files
from pipelines.promotion.evidence import RELEASED, bundle_evidence
from pipelines.store.seeding import digest_of


@dataclass(frozen=True)
class Imported:
    """Weights to register as a version of `name`: a fuser, its tags, folders for the run, what it sees."""

    title: str
    name: str
    config: BaseModel
    fuser: nn.Module
    tags: dict[str, str]
    folders: Mapping[str, Path] = field(default_factory=dict)
    types: DegradationTypes | None = None


def import_files(folder: Path, settings: Settings, *, name: str | None = None) -> str:
    """Register the files of `folder` as a version of `name` (SYSTEM-released); return its models:/ URI.

    Raises ValueError naming the file or key that is missing, unexpected or of another shape.
    """
    system = system_of_files(folder)
    name = name or f"{system.name}-released"
    config, fuser = read_released(system, folder)
    tags = origin_tags(RELEASED, system, name, digests(system, folder))
    return register_imported(Imported("import_released", name, config, fuser, tags), settings)


def register_imported(imported: Imported, settings: Settings) -> str:
    """Register a version under a run of its own, unless these weights are; return its models:/ URI."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    done = tracking.find_run(client, imported.tags["config_digest"])
    if done and done.info.status == "FINISHED":
        print_line("  these files are registered under this name already")
        return str(done.data.tags["registered_model"])
    config = {"model": imported.config.model_dump(mode="json")}
    run = tracking.open_run(client, name=imported.title, config=config, tags=imported.tags)
    print_line("  exporting the program, and comparing it with its module")
    try:
        for artifact, folder in imported.folders.items():
            tracking.log_folder(client, run.info.run_id, folder, artifact)
        version = registry.resume_registration(client, imported.name, run.info.run_id)
        if version is None:
            version = _register(client, imported, run.info.run_id)
        describe_version(client, imported.name, str(version.version))
    except BaseException as error:
        tracking.fail_run(client, run.info.run_id, error)
        raise
    model = f"models:/{version.name}/{version.version}"
    tracking.finish_run(client, run.info.run_id, tags={"registered_model": model})
    return model


def _register(client: Any, imported: Imported, run_id: str) -> Any:
    from infra.registry import model_versions as registry

    origin = {**imported.tags, "run_id": run_id}
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        bundle = Path(scratch) / "bundle"
        write_bundle(bundle, imported.config, imported.fuser, origin=origin, types=imported.types)
        return registry.register_bundle(
            client,
            imported.name,
            bundle,
            run_id=run_id,
            tags=origin | bundle_evidence(bundle),
            requirements=REQUIREMENTS,
        )


def origin_tags(
    origin: str, system: System, name: str, sha256_by_file: Mapping[str, str]
) -> dict[str, str]:
    """Where weights come from, and which files they were."""
    files = {f"sha256_{file}": digest for file, digest in sha256_by_file.items()}
    return {
        "origin": origin,
        "system": system.name,
        "config_digest": digest_of([f"import_{origin}", name, files]),
        "git_commit": code_commit(),
        **files,
    }
