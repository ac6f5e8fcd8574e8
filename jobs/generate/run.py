"""Dataset versions: made shard by shard on Ray, forecast, verified, and cleaned up after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from degradations.catalogue import CLEAN
from infra.periodic import periodically
from infra.settings import Settings, code_commit, who_runs
from jobs.console import print_facts, print_line, progress
from jobs.generate.quarantine import Quarantine
from jobs.locations import find_manifest, open_datasets, source_reader
from jobs.scan.run import load_index
from pipelines.datasets.forecast import (
    ClusterSize,
    SceneCost,
    calibrate,
    cost_of_run,
    forecast,
    read_cost,
    write_cost,
)
from pipelines.datasets.groups import members_of
from pipelines.datasets.plan import DatasetConfig, Earlier, ShardPlan, plan_shards
from pipelines.datasets.shards.markers import ShardInfo
from pipelines.datasets.shards.writing import BadSourcesError, WrittenShard, libraries, try_shard
from pipelines.datasets.under_way import HEARTBEAT_S, announced
from pipelines.datasets.verify import remake_scenes, verify_version
from pipelines.datasets.versions import (
    DatasetVersion,
    Garbage,
    delete_garbage,
    earlier_of,
    find_garbage,
    find_version,
    manifest_of,
    newest_version,
    publish_version,
    split_reuse,
)
from pipelines.sources.scenes import SceneTable
from pipelines.store.folders import Folder
from pipelines.store.names import nearest

_SMOKE_SCENES = 8


def generate(
    config: DatasetConfig,
    settings: Settings,
    *,
    scenes: str,
    smoke: bool = False,
    rebuild: Sequence[str] | None = None,
    local: bool = False,
) -> DatasetVersion:
    """Make the version that `config` describes over the index called `scenes`.

    Shards that exist are reused, pictures that the recipe's last version has are copied, and the
    manifest is published last. `rebuild` names degradations that are made again all the same; none
    means all, with the clean pictures. A trial run (`smoke`) has a name of its own; `local` needs no Ray.
    Raises ValueError on bad sources.
    """
    if smoke:
        config = config.model_copy(update={"name": f"{config.name}-smoke"})
    index = load_index(settings, scenes)
    quarantine = Quarantine(index, config.max_refused_share)
    chosen = _choose(config, index.scenes, smoke=smoke)
    root = open_datasets(settings)
    config, earlier = after_newest(config, root, rebuild)
    with (
        announced(root, "generate", who_runs()) as announcement,
        periodically(announcement.send_heartbeat, every_s=HEARTBEAT_S),
    ):
        shards = None
        while shards is None:
            left = chosen.without(quarantine.scene_ids)
            plan = plan_shards(config, left, earlier)
            announcement.need(plan.names())
            announcement.wait_for_collections(print_line)
            made = _make_here if local else partial(_make_on_ray, keep_figures=not smoke)
            shards = _make_shards(plan, root, settings, quarantine, made)
        announcement.renew()
        announcement.wait_for_collections(print_line)
        version = publish_version(
            root,
            config,
            left,
            shards,
            refused=quarantine.refused,
            quarantined=sorted(quarantine.scene_ids),
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


def _make_shards(
    plan: ShardPlan,
    root: Folder,
    settings: Settings,
    quarantine: Quarantine,
    made: Callable[..., Iterator[WrittenShard | BadSourcesError]],
) -> list[ShardInfo] | None:
    """Find the shards of a plan that exist, and have the others `made`.

    None when sources are bad that were not in quarantine before: without their scenes, the plan is another.
    """
    shards, to_build = split_reuse(plan, root)
    counts = f"reuse {len(shards)} shards, build {len(to_build)}"
    print_facts({"plan": counts, "scenes": str(plan.num_scenes)})
    num_bad = len(quarantine.scene_ids)
    for written in made(to_build, root, settings) if to_build else ():
        if isinstance(written, BadSourcesError):
            quarantine.add(written)
        else:
            shards.append(written.info)
    return shards if len(quarantine.scene_ids) == num_bad else None


def _make_on_ray(
    specs: ShardPlan, root: Folder, settings: Settings, *, keep_figures: bool
) -> Iterator[WrittenShard | BadSourcesError]:
    # Ray is only needed where there is something to do.
    from infra.cluster.tasks import map_tasks

    with _counting(specs, root, settings, keep_figures=keep_figures) as count:
        for written in map_tasks(try_shard, specs, root, source_reader(settings)):
            if not isinstance(written, BadSourcesError):
                count(written)
            yield written


def _make_here(
    specs: ShardPlan, root: Folder, settings: Settings
) -> Iterator[WrittenShard | BadSourcesError]:
    with progress("shards", len(specs)) as advance:
        for done, spec in enumerate(specs, start=1):
            yield try_shard(spec, root, source_reader(settings))
            advance(done)


def after_newest(
    config: DatasetConfig, root: Folder, rebuild: Sequence[str] | None
) -> tuple[DatasetConfig, Earlier | None]:
    """The recipe with what was rebuilt so far and is to be now, and what it can copy.

    Both come from its last version, so that a `rebuild` that was interrupted resumes.
    """
    newest = newest_version(root, config.name)
    known = [*config.shard.vi, *config.shard.ir]
    for name in rebuild or ():
        if name not in known:
            raise ValueError(
                f"--rebuild {name}: the recipe has no such degradation{nearest(name, known)}"
            )
    counts = newest.config.shard.rebuilt if newest else {}
    rebuilt = {name: counts[name] for name in counts if name in (CLEAN, *known)}
    rebuilt |= config.shard.rebuilt
    if rebuild is not None:
        again = rebuild or [CLEAN, *known]
        rebuilt |= {name: rebuilt.get(name, 0) + 1 for name in dict.fromkeys(again)}
    shard = config.shard.model_copy(update={"rebuilt": rebuilt})
    config = config.model_copy(update={"shard": shard})
    return config, earlier_of(newest, shard) if newest else None


@contextmanager
def _counting(
    specs: ShardPlan, root: Folder, settings: Settings, *, keep_figures: bool
) -> Iterator[Callable[[WrittenShard], None]]:
    """Connect to the cluster and give a function that counts each written shard, for people and meters.

    With `keep_figures` the next forecast starts from what they took; a trial run is too short for that.
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
        made = [written for written in shards if not written.num_copied]
        if keep_figures and made:
            when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            cost = cost_of_run(made, when=when, num_cores=count_resource("CPU") or 1)
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
    rebuild: Sequence[str] | None = None,
) -> None:
    """Print what `generate` would do, and what it takes on `cluster` at `price` a core-hour.

    Bytes and time are those of an earlier run; with `fresh`, or without such a run, a few scenes are
    made, measured and dropped.
    """
    chosen = _choose(config, load_index(settings, scenes).scenes, smoke=smoke)
    root = open_datasets(settings)
    config, earlier = after_newest(config, root, rebuild)
    reused, to_build = split_reuse(plan_shards(config, chosen, earlier), root)
    rows = {
        "reuse": f"{len(reused)} shards, {sum(shard.num_bytes for shard in reused) / 2**20:.1f} MiB",
        "build": f"{len(to_build)} shards of {to_build.num_scenes} scenes",
    }
    if copying := sum(spec.older is not None for spec in to_build):
        made = ", ".join(sorted(_made_again(to_build))) or "nothing but the groups"
        rows["copy"] = (
            f"into {copying} of them, from the last version; made: {made}. Less than below"
        )
    if to_build:
        kept = None if fresh else read_cost(settings.work, config.shard, root.uri)
        cost = kept or calibrate(to_build, source_reader(settings))
        rows |= _forecast_rows(to_build, cost, cluster, price)
    print_facts(rows)


def _made_again(plan: ShardPlan) -> set[str]:
    """Members that no shard can copy."""
    copied = {member for spec in plan if spec.older for member in spec.older.members}
    return {*members_of(plan[0].config)} - copied


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
        f"{_duration(ahead.clock_s)} on {size}, busy {busy:.0%} of the time; without starting Ray"
    )
    # A node is paid for until the last shard is written, whether its cores are busy or not.
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


def verify(version_or_uri: str, settings: Settings, *, remake: int = 0) -> None:
    """Check a version, and make so many of its scenes again. Raises ValueError that names what is wrong."""
    # The cache was checked when it was filled; this asks the store itself.
    root, name = find_manifest(version_or_uri, settings, cached=False)
    version = find_version(root, name)
    with progress("shards", len(version.shards)) as advance:
        problems = verify_version(version, root, on_progress=lambda done, _: advance(done))
    for problem in problems:
        print_line(problem)
    if problems:
        raise ValueError(f"{version.name} is not whole: {len(problems)} problems, listed above")
    print_facts({"whole": version.name, "holds": _holds(version)})
    if remake:
        _check_remade(version, root, settings, remake)


def _check_remade(version: DatasetVersion, root: Folder, settings: Settings, count: int) -> None:
    from jobs.train.inputs import find_sources

    scenes = find_sources(version, settings).trained
    if scenes is None:
        raise ValueError(
            f"no index in {settings.work / 'scenes'} is the one {version.name} was made of; "
            "--remake needs its sources"
        )
    changed = remake_scenes(version, root, scenes, num_scenes=count, read=source_reader(settings))
    for scene, members in changed.items():
        print_line(f"  {scene}: {', '.join(sorted(members))}")
    made, now = ", ".join(version.libraries), ", ".join(libraries())
    if changed:
        raise ValueError(
            f"{len(changed)} scenes come to other bytes, listed above; made with {made}, now {now}; "
            "jobs.generate --rebuild makes them again"
        )
    print_facts(
        {"made again": f"{min(count, version.num_scenes)} scenes, with {now}: the same bytes"}
    )


def collect_garbage(settings: Settings, *, delete: bool, min_age_h: float) -> bool:
    """Print what no version needs, and with `delete` delete it; whether there is anything."""
    root = open_datasets(settings)
    with (
        announced(root, "gc", who_runs()) as announcement,
        periodically(announcement.send_heartbeat, every_s=HEARTBEAT_S),
    ):
        generations = announcement.others("generate")
        needed = {shard for record in generations for shard in record.shards}
        min_age_s = min_age_h * 3600
        garbage = find_garbage(root, now_s=time.time(), min_age_s=min_age_s, needed=needed)
        left = (*garbage.unfinished, *announcement.dead())
        garbage = Garbage(shards=garbage.shards, unfinished=left)
        if delete:
            delete_garbage(root, garbage, check=announcement.check_alive)
    for record in generations:
        kept = f"{len(record.shards)} shards are needed by the generation of {record.who}"
        print_line(f"  {kept}, under way since {record.since}")
    for entry in (*garbage.shards, *garbage.unfinished):
        print_line(f"  {entry.name}")
    size = f"{garbage.num_bytes / 2**20:.1f} MiB"
    count = (
        f"{len(garbage.shards)} files of unreferenced shards, {len(garbage.unfinished)} unfinished"
    )
    print_facts({"deleted" if delete else "would delete": f"{count}, {size}"})
    return bool(garbage.shards or garbage.unfinished)
