"""python -m jobs.generate RECIPE --scenes INDEX: make a dataset version, rebuilding only what changed.

python -m jobs.generate verify VERSION            read every byte of it and say what is wrong
python -m jobs.generate inspect VERSION --out X   a page to look at: scenes, groups, parameters
python -m jobs.generate gc [--delete]             shards of no version, files of dead writers
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from infra.settings import Settings, code_commit, read_settings
from jobs.config import add_recipe_arguments, find_recipe, override
from jobs.console import facts, progress, run_command, say
from jobs.recipes import DATASETS
from jobs.scan import load_index
from pipelines.dataset import (
    DatasetVersion,
    delete_garbage,
    find_garbage,
    find_version,
    manifest_path,
    publish_version,
    shard_folder,
    split_reuse,
)
from pipelines.gallery import write_gallery
from pipelines.plan import DatasetConfig, plan_shards
from pipelines.scenes import Scene, check_refused_share, scenes_of_split
from pipelines.shards import write_shard
from pipelines.verify import verify_version

_SMOKE_SCENES = 8


def generate(
    config: DatasetConfig, settings: Settings, *, scenes: str, smoke: bool = False
) -> DatasetVersion:
    """Make the version that `config` describes over the index called `scenes`.

    Shards that exist are reused; the manifest is published last. A try-out (`smoke`) has a name of
    its own. Raises ValueError on bad sources.
    """
    if smoke:
        config = config.model_copy(update={"name": f"{config.name}-smoke"})
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
    if arguments.dry_run:
        dry_run(config, settings, scenes=arguments.scenes, smoke=arguments.smoke)
        return
    version = generate(config, settings, scenes=arguments.scenes, smoke=arguments.smoke)
    say(f"next: python -m jobs.train dspfusion_stage1_small --set dataset={version.config.name}")


def verify(name: str, settings: Settings) -> None:
    """Check the version called `name`. Raises ValueError that counts and names what is wrong."""
    version = find_version(settings.datasets, name)
    with progress("shards", len(version.shards)) as advance:
        problems = verify_version(
            version, settings.datasets, on_progress=lambda done, _: advance(done)
        )
    for problem in problems:
        say(problem)
    if problems:
        raise ValueError(f"{version.name} is not whole: {len(problems)} problems, listed above")
    facts(
        {
            "whole": version.name,
            "holds": f"{version.num_scenes} scenes, {version.num_groups} groups, "
            f"{version.num_bytes / 2**20:.1f} MiB in {len(version.shards)} shards",
        }
    )


def collect_garbage(settings: Settings, *, delete: bool, min_age_h: float) -> None:
    """Say what no version needs, and with `delete` delete it."""
    garbage = find_garbage(settings.datasets, now_s=time.time(), min_age_s=min_age_h * 3600)
    for path in (*garbage.shards, *garbage.temporary):
        say(f"  {path.relative_to(settings.datasets)}")
    size = f"{garbage.num_bytes / 2**20:.1f} MiB"
    count = (
        f"{len(garbage.shards)} files of unreferenced shards, {len(garbage.temporary)} temporary"
    )
    if delete:
        delete_garbage(garbage)
    facts({"deleted" if delete else "would delete": f"{count}, {size}"})
    if not delete and garbage.num_bytes:
        say("next: python -m jobs.generate gc --delete")


def _main_verify(arguments: argparse.Namespace) -> None:
    verify(arguments.version, read_settings(work=arguments.work))


def _main_inspect(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    version = find_version(settings.datasets, arguments.version)
    out = arguments.out or settings.work / "reports" / f"{version.name}.html"
    write_gallery(version, settings.datasets, out)
    facts({"version": version.name, "page": str(out)})


def _main_gc(arguments: argparse.Namespace) -> None:
    collect_garbage(
        read_settings(work=arguments.work),
        delete=arguments.delete,
        min_age_h=arguments.min_age_h,
    )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="name of a version, or of a recipe for its newest")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--out", type=Path, help="the page (default: WORK/reports/VERSION.html)")


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--min-age-h", type=float, default=24.0, help="leave what is younger (default: 24 h)"
    )


_Add = Callable[[argparse.ArgumentParser], None]
_Run = Callable[[argparse.Namespace], None]
# Recognised before the names of recipes.
_VERBS: dict[str, tuple[_Add, _Run]] = {
    "verify": (_add_version, _main_verify),
    "inspect": (_add_inspect, _main_inspect),
    "gc": (_add_gc, _main_gc),
}


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, DATASETS)
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")


def main() -> None:
    """Run the command: a verb when the first word is one, else a recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    add, run = _VERBS.get(verb, (_add_recipe, _main))
    if verb in _VERBS:
        parser.add_argument("verb", choices=[verb])
    add(parser)
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(run, parser)


if __name__ == "__main__":
    main()
