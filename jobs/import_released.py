"""python -m jobs.import_released DIR [--name NAME]: register the authors' released weights.

DIR holds the files as the authors publish them (DSPFusion: net_g.pth, net_dp.pth, net_sp.pth and
net_dm.pth), which say of which system they are. The same files again are found to be registered already.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from infra.settings import Settings, code_commit, read_settings
from jobs.console import print_facts, print_line, run_command
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


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    model = import_files(arguments.folder, settings, name=arguments.name)
    print_facts({"model": model, "origin": "released"})
    print_line(f"next: python -m jobs.fuse {model} --vi PATH --ir PATH --out PATH")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.import_released", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the published files")
    parser.add_argument("--name", help="registered model (default: SYSTEM-released)")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
