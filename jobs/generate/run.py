"""Dataset versions: made shard by shard, on Ray or here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from degradations.catalogue import CLEAN
from infra.periodic import periodically
from infra.settings import Settings, code_commit, who_runs
from jobs.console import Advance, print_facts, print_line, progress
from jobs.generate.quarantine import Quarantine
from jobs.locations import open_datasets, source_reader
from jobs.placement import Placement, workers
from jobs.scan.run import load_index
from pipelines.datasets.forecast import cost_of_run, write_cost
from pipelines.datasets.plan import DatasetConfig, Earlier, ShardConfig, ShardPlan, plan_shards
from pipelines.datasets.shards.markers import ShardInfo
from pipelines.datasets.shards.writing import BadSourcesError, WrittenShard, try_shard
from pipelines.datasets.under_way import HEARTBEAT_S, announced
from pipelines.datasets.versions import (
    DatasetVersion,
    LeftOut,
    Made,
    earlier_of,
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
    chosen = recipe_scenes(config, index.scenes, smoke=smoke)
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
            shards = _make_shards(plan, root, settings, quarantine, local=local, smoke=smoke)
        announcement.renew()
        announcement.wait_for_collections(print_line)
        made = Made(code_commit(), datetime.now(UTC).isoformat(timespec="milliseconds"))
        left_out = LeftOut(quarantine.refused, quarantine.scene_ids)
        version = publish_version(root, config, left, shards, made, left_out)
    print_facts(
        {
            "version": version.name,
            "holds": holds(version),
            "manifest": f"{root.uri}/{manifest_of(version.name)}",
        }
    )
    return version


def _make_shards(
    plan: ShardPlan,
    root: Folder,
    settings: Settings,
    quarantine: Quarantine,
    *,
    local: bool,
    smoke: bool,
) -> list[ShardInfo] | None:
    """Find the shards of a plan that exist, and make the others.

    None when sources are bad that were not in quarantine before: without their scenes, the plan is another.
    """
    shards, to_build = split_reuse(plan, root)
    counts = f"reuse {len(shards)} shards, build {len(to_build)}"
    print_facts({"plan": counts, "scenes": str(plan.num_scenes)})
    if not to_build:  # Ray is only needed where there is something to do
        return shards
    num_bad, made = len(quarantine.scene_ids), list[WrittenShard]()
    with (
        workers(Placement("cpu", local=local), settings) as there,
        progress("shards", len(to_build)) as advance,
    ):
        count = _counter(advance, exported=not local)
        for written in there.map(try_shard, to_build, root, source_reader(settings)):
            if isinstance(written, BadSourcesError):
                quarantine.add(written)
            else:
                count(written.info)
                made.append(written)
        if not (local or smoke):  # one process, or seconds, say nothing of a cluster's hours
            _keep_figures(made, to_build[0].config, root, settings, num_cores=there.count)
    shards += [written.info for written in made]
    return shards if len(quarantine.scene_ids) == num_bad else None


def _counter(advance: Advance, *, exported: bool) -> Callable[[ShardInfo], None]:
    """What counts each written shard for people and, `exported`, for the cluster's meters."""
    started_s = time.monotonic()
    num_shards = num_images = num_bytes = 0

    def count(info: ShardInfo) -> None:
        nonlocal num_shards, num_images, num_bytes
        num_shards += 1
        num_images += info.num_images
        num_bytes += info.num_bytes
        if exported:
            from infra.prometheus import count_shard

            count_shard(num_images=info.num_images, num_bytes=info.num_bytes)
        spent_s = time.monotonic() - started_s
        rates = f"{num_shards / spent_s:.2f} shards/s  {num_images / spent_s:.0f} images/s"
        advance(num_shards, f"{rates}  {num_bytes / 2**20:.1f} MiB")

    return count


def _keep_figures(
    shards: Sequence[WrittenShard],
    config: ShardConfig,
    root: Folder,
    settings: Settings,
    *,
    num_cores: int,
) -> None:
    """Let the next forecast start from what this run took; what was copied says nothing of that."""
    made = [written for written in shards if not written.num_copied]
    if made:
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        cost = cost_of_run(made, when=when, num_cores=num_cores)
        write_cost(settings.work, config, root.uri, cost)


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


def holds(version: DatasetVersion) -> str:
    """What a version holds, in words."""
    size = f"{version.num_bytes / 2**20:.1f} MiB in {len(version.shards)} shards"
    return f"{version.num_scenes} scenes, {version.num_groups} groups, {size}"


def named(config: DatasetConfig, scenes: str) -> DatasetConfig:
    """The recipe under its full name: index and recipe."""
    return config.model_copy(update={"name": f"{Path(scenes).stem}-{config.name}"})


def recipe_scenes(config: DatasetConfig, scenes: SceneTable, *, smoke: bool) -> SceneTable:
    """The scenes of the recipe's split; a few of them for a trial run."""
    chosen = scenes.of_split(config.split)
    return chosen[:_SMOKE_SCENES] if smoke else chosen
