"""python -m jobs.generate RECIPE --scenes INDEX: make a dataset version, rebuilding only what changed."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from infra.settings import Settings, code_commit, read_settings
from jobs.config import add_recipe_arguments, find_recipe, override
from jobs.console import facts, progress, run_command, say
from jobs.recipes import DATASETS
from jobs.scan import load_index
from pipelines.dataset import (
    DatasetVersion,
    manifest_path,
    publish_version,
    shard_folder,
    split_reuse,
)
from pipelines.plan import DatasetConfig, plan_shards
from pipelines.scenes import Scene, check_refused_share, scenes_of_split
from pipelines.shards import write_shard

_SMOKE_SCENES = 8


def generate(
    config: DatasetConfig, settings: Settings, *, scenes: str, smoke: bool = False
) -> DatasetVersion:
    """Make the version that `config` describes over the index called `scenes`.

    Shards that exist are reused; the manifest is published last. Raises ValueError on bad sources.
    """
    index = load_index(settings, scenes)
    check_refused_share(index, max_share=config.max_refused_share)
    chosen = _choose(config, index.scenes, smoke=smoke)
    specs = plan_shards(config, chosen)
    reused, to_build = split_reuse(specs, settings.datasets)
    facts(
        {"plan": f"reuse {len(reused)} shards, build {len(to_build)}", "scenes": str(len(chosen))}
    )
    built = []
    if to_build:
        # Ray is only needed where there is something to do.
        from infra.cluster import connected, map_tasks

        with connected(settings), progress("shards", len(to_build)) as advance:
            started = time.monotonic()
            for info in map_tasks(write_shard, to_build, shard_folder(settings.datasets)):
                built.append(info)
                images = sum(shard.num_images for shard in built)
                rate = images / (time.monotonic() - started)
                advance(len(built), f"{images} images, {rate:.0f}/s")
    version = publish_version(
        settings.datasets,
        config,
        chosen,
        [*reused, *built],
        refused=index.refused,
        commit=code_commit(),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    facts(
        {
            "version": version.name,
            "holds": f"{version.num_scenes} scenes, {version.num_groups} groups, "
            f"{version.num_bytes / 2**20:.1f} MiB in {len(version.shards)} shards",
            "manifest": str(manifest_path(settings.datasets, version.name)),
        }
    )
    return version


def named(config: DatasetConfig, scenes: str) -> DatasetConfig:
    """The recipe under its full name: index and recipe."""
    return config.model_copy(update={"name": f"{Path(scenes).stem}-{config.name}"})


def _choose(config: DatasetConfig, scenes: tuple[Scene, ...], *, smoke: bool) -> list[Scene]:
    chosen = scenes_of_split(scenes, config.split)
    return chosen[:_SMOKE_SCENES] if smoke else chosen


def dry_run(config: DatasetConfig, settings: Settings, *, scenes: str, smoke: bool = False) -> None:
    """Say what `generate` would do."""
    chosen = _choose(config, load_index(settings, scenes).scenes, smoke=smoke)
    reused, to_build = split_reuse(plan_shards(config, chosen), settings.datasets)
    facts(
        {
            "reuse": f"{len(reused)} shards, {sum(shard.num_bytes for shard in reused) / 2**20:.1f} MiB",
            "build": f"{len(to_build)} shards of {sum(len(spec.scenes) for spec in to_build)} scenes",
        }
    )


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    config = override(find_recipe(DATASETS, arguments.recipe), arguments.overrides)
    config = named(config, arguments.scenes)
    run = dry_run if arguments.dry_run else generate
    run(config, settings, scenes=arguments.scenes, smoke=arguments.smoke)
    if not arguments.dry_run:
        say(f"next: python -m jobs.train dspfusion_stage1_small --set dataset={config.name}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.generate", description=__doc__)
    add_recipe_arguments(parser, DATASETS)
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
