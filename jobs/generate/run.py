"""python -m jobs.generate RECIPE --scenes INDEX: make a dataset version, rebuilding only what changed.

python -m jobs.generate RECIPE … --dry-run [--cluster 64x16]   what it would make, cost and take
python -m jobs.generate verify VERSION            read every byte of it and say what is wrong
python -m jobs.generate inspect VERSION --out X   a page to look at: scenes, groups, parameters
python -m jobs.generate gc [--delete]             shards of no version, files of dead writers
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from infra.settings import Settings, code_commit, read_settings
from jobs.config import add_recipe_arguments, find_recipe, override
from jobs.console import print_facts, print_line, progress, run_verbs
from jobs.locations import find_manifest, open_datasets, source_reader
from jobs.recipes import DATASETS
from jobs.scan import load_index
from pipelines.datasets.forecast import (
    ClusterSize,
    SceneCost,
    calibrate,
    cost_of_run,
    forecast,
    read_cost,
    write_cost,
)
from pipelines.datasets.plan import DatasetConfig, ShardPlan, plan_shards
from pipelines.datasets.shards import WrittenShard, write_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import (
    DatasetVersion,
    delete_garbage,
    find_garbage,
    find_version,
    manifest_of,
    publish_version,
    split_reuse,
)
from pipelines.reports.dataset_gallery import write_gallery
from pipelines.sources.scan import check_refused_share
from pipelines.sources.scenes import SceneTable
from pipelines.store.folders import Folder

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
    check_refused_share(
        index, max_share=config.max_refused_share, setting="--set max_refused_share=…"
    )
    chosen = _choose(config, index.scenes, smoke=smoke)
    root = open_datasets(settings)
    reused, to_build = split_reuse(plan_shards(config, chosen), root)
    print_facts(
        {"plan": f"reuse {len(reused)} shards, build {len(to_build)}", "scenes": str(len(chosen))}
    )
    shards = list(reused)
    if to_build:
        # Ray is only needed where there is something to do.
        from infra.cluster.tasks import map_tasks

        with _counting(to_build, root, settings, keep_figures=not smoke) as count:
            for written in map_tasks(write_shard, to_build, root, source_reader(settings)):
                count(written)
                shards.append(written.info)
    version = publish_version(
        root,
        config,
        chosen,
        shards,
        refused=index.refused,
        commit=code_commit(),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    print_facts(
        {
            "version": version.name,
            "holds": _holds(version),
            "manifest": f"{root.uri}/{manifest_of(version.name)}",
        }
    )
    return version


@contextmanager
def _counting(
    specs: ShardPlan, root: Folder, settings: Settings, *, keep_figures: bool
) -> Iterator[Callable[[WrittenShard], None]]:
    """Connect to the cluster and give a function that counts each written shard, for people and meters.

    With `keep_figures` what they took is the next forecast's; a try-out is too short to tell.
    """
    from infra.cluster.connect import connected
    from infra.cluster.nodes import count_resource
    from infra.prometheus import count_shard

    shards: list[WrittenShard] = []
    images = num_bytes = 0
    with connected(settings), progress("shards", len(specs)) as advance:
        started = time.monotonic()

        def count(written: WrittenShard) -> None:
            nonlocal images, num_bytes
            info = written.info
            shards.append(written)
            images += info.num_images
            num_bytes += info.num_bytes
            count_shard(num_images=info.num_images, num_bytes=info.num_bytes)
            spent_s = time.monotonic() - started
            rates = f"{len(shards) / spent_s:.2f} shards/s  {images / spent_s:.0f} images/s"
            advance(len(shards), f"{rates}  {num_bytes / 2**20:.1f} MiB")

        yield count
        if keep_figures:
            when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            cost = cost_of_run(shards, when=when, num_cores=count_resource("CPU") or 1)
            write_cost(settings.work, specs[0].config, root.uri, cost)


def _holds(version: DatasetVersion) -> str:
    size = f"{version.num_bytes / 2**20:.1f} MiB in {len(version.shards)} shards"
    return f"{version.num_scenes} scenes, {version.num_groups} groups, {size}"


def named(config: DatasetConfig, scenes: str) -> DatasetConfig:
    """The recipe under its full name: index and recipe."""
    return config.model_copy(update={"name": f"{Path(scenes).stem}-{config.name}"})


def _choose(config: DatasetConfig, scenes: SceneTable, *, smoke: bool) -> SceneTable:
    chosen = scenes.of_split(config.split)
    return chosen[:_SMOKE_SCENES] if smoke else chosen


def dry_run(
    config: DatasetConfig,
    settings: Settings,
    *,
    scenes: str,
    smoke: bool = False,
    cluster: ClusterSize | None = None,
    price: float | None = None,
    fresh: bool = False,
) -> None:
    """Say what `generate` would do, and what it takes on `cluster` at `price` a core-hour.

    Bytes and time are those of a former run, or measured on a few scenes, made and dropped (`fresh`).
    """
    chosen = _choose(config, load_index(settings, scenes).scenes, smoke=smoke)
    root = open_datasets(settings)
    reused, to_build = split_reuse(plan_shards(config, chosen), root)
    rows = {
        "reuse": f"{len(reused)} shards, {sum(shard.num_bytes for shard in reused) / 2**20:.1f} MiB",
        "build": f"{len(to_build)} shards of {to_build.num_scenes} scenes",
    }
    if to_build:
        kept = None if fresh else read_cost(settings.work, config.shard, root.uri)
        cost = kept or calibrate(to_build, source_reader(settings))
        rows |= _forecast_rows(to_build, cost, cluster, price)
    print_facts(rows)


def _forecast_rows(
    plan: ShardPlan, cost: SceneCost, cluster: ClusterSize | None, price: float | None
) -> dict[str, str]:
    alone = forecast(plan, cost, 1)
    mib, num_scenes = alone.num_bytes / 2**20, plan.num_scenes
    rows = {
        "figures": f"of {cost.source}",
        "a scene": f"{mib / num_scenes:.2f} MiB, {alone.core_s / num_scenes:.3f} s of a core",
        "about": f"{mib:.1f} MiB, {alone.core_s:.0f} s of one core",
    }
    if cluster is None:
        return rows
    ahead = forecast(plan, cost, cluster.num_cores)
    busy = ahead.core_s / (ahead.clock_s * cluster.num_cores)
    size = f"{cluster.num_nodes} nodes of {cluster.cores_per_node} cores"
    rows["on the cluster"] = (
        f"{_duration(ahead.clock_s)} on {size}, which work {busy:.0%} of it; starting Ray is not in it"
    )
    # A node is paid for until the last shard is there, whether its cores work or not.
    core_h = ahead.clock_s * cluster.num_cores / 3600
    rows["paid for"] = f"{core_h:.2f} core-hours"
    if price is not None:
        rows["paid for"] += f", {core_h * price:.2f} at {price:g} each"
    return rows


def _duration(seconds: float) -> str:
    hours, minutes = divmod(seconds / 60, 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{hours:.0f} h {minutes:.0f} min" if hours else f"{minutes:.0f} min"


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    config = override(find_recipe(DATASETS, arguments.recipe), arguments.overrides)
    config = named(config, arguments.scenes)
    ahead = (arguments.cluster, arguments.price, arguments.fresh_figures)
    if arguments.dry_run:
        cluster, price, fresh = ahead
        if price is not None and not cluster:
            raise ValueError("--price is of a core-hour; it needs --cluster NODESxCORES")
        dry_run(
            config,
            settings,
            scenes=arguments.scenes,
            smoke=arguments.smoke,
            cluster=ClusterSize.parse(cluster) if cluster else None,
            price=price,
            fresh=fresh,
        )
        return
    if ahead != (None, None, False):
        raise ValueError(
            "--cluster, --price and --fresh-figures have an effect with --dry-run only"
        )
    version = generate(config, settings, scenes=arguments.scenes, smoke=arguments.smoke)
    recipe = "dspfusion_stage1_small" + " --smoke" * arguments.smoke
    print_line(f"next: python -m jobs.train {recipe} --set dataset={version.config.name}")


def verify(version_or_uri: str, settings: Settings) -> None:
    """Check a version. Raises ValueError that counts and names what is wrong."""
    # What the cache holds was checked when it was fetched; what the store holds is asked here.
    root, name = find_manifest(version_or_uri, settings, cached=False)
    version = find_version(root, name)
    with progress("shards", len(version.shards)) as advance:
        problems = verify_version(version, root, on_progress=lambda done, _: advance(done))
    for problem in problems:
        print_line(problem)
    if problems:
        raise ValueError(f"{version.name} is not whole: {len(problems)} problems, listed above")
    print_facts({"whole": version.name, "holds": _holds(version)})


def collect_garbage(settings: Settings, *, delete: bool, min_age_h: float) -> None:
    """Say what no version needs, and with `delete` delete it."""
    root = open_datasets(settings)
    garbage = find_garbage(root, now_s=time.time(), min_age_s=min_age_h * 3600)
    for entry in (*garbage.shards, *garbage.unfinished):
        print_line(f"  {entry.name}")
    size = f"{garbage.num_bytes / 2**20:.1f} MiB"
    count = (
        f"{len(garbage.shards)} files of unreferenced shards, {len(garbage.unfinished)} unfinished"
    )
    if delete:
        delete_garbage(root, garbage)
    print_facts({"deleted" if delete else "would delete": f"{count}, {size}"})
    if not delete and (garbage.shards or garbage.unfinished):
        print_line("next: python -m jobs.generate gc --delete")


def _main_verify(arguments: argparse.Namespace) -> None:
    verify(arguments.version, read_settings(work=arguments.work))


def _main_inspect(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    root, name = find_manifest(arguments.version, settings)
    version = find_version(root, name)
    out = arguments.out or settings.work / "reports" / f"{version.name}.html"
    write_gallery(version, root, out)
    print_facts({"version": version.name, "page": str(out)})


def _main_gc(arguments: argparse.Namespace) -> None:
    collect_garbage(
        read_settings(work=arguments.work),
        delete=arguments.delete,
        min_age_h=arguments.min_age_h,
    )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version", help="name of a version, of a recipe for its newest, or a manifest's path or URI"
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--out", type=Path, help="the page (default: WORK/reports/VERSION.html)")


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--min-age-h", type=float, default=24.0, help="leave what is younger (default: 24 h)"
    )


# Recognised before the names of recipes.
_VERBS = {
    "verify": (_add_version, _main_verify),
    "inspect": (_add_inspect, _main_inspect),
    "gc": (_add_gc, _main_gc),
}


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, DATASETS)
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument(
        "--cluster", metavar="NODESxCORES", help="with --dry-run: how long it takes on, say, 64x16"
    )
    parser.add_argument("--price", type=float, help="of a core-hour, in any currency")
    parser.add_argument(
        "--fresh-figures",
        action="store_true",
        help="measure a few scenes here, also where a former run has left its figures",
    )
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")


def main() -> None:
    """Run the command: a verb when the first word is one, else a recipe."""
    run_verbs("jobs.generate", __doc__, _VERBS, otherwise=(_add_recipe, _main))


if __name__ == "__main__":
    main()
