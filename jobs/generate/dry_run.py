"""What a generation would make, cost and take: `jobs.generate RECIPE --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

from infra.settings import Settings
from jobs.console import duration, print_facts
from jobs.generate.run import after_newest, recipe_scenes
from jobs.locations import open_datasets, source_reader
from jobs.scan.run import load_index
from pipelines.datasets.forecast import ClusterSize, SceneCost, calibrate, forecast, read_cost
from pipelines.datasets.groups import members_of
from pipelines.datasets.plan import DatasetConfig, ShardPlan, plan_shards
from pipelines.datasets.versions import split_reuse


def plan_of(
    config: DatasetConfig,
    settings: Settings,
    *,
    scenes: str,
    smoke: bool = False,
    rebuild: Sequence[str] | None = None,
) -> ShardPlan:
    """What `generate` would make, by the same arguments, as long as no source is bad."""
    chosen = recipe_scenes(config, load_index(settings, scenes).scenes, smoke=smoke)
    config, earlier = after_newest(config, open_datasets(settings), rebuild)
    return plan_shards(config, chosen, earlier)


def dry_run(
    plan: ShardPlan,
    settings: Settings,
    *,
    cluster: ClusterSize | None = None,
    price: float | None = None,
    fresh: bool = False,
) -> None:
    """Print what making the plan's shards comes to, and what it takes on `cluster` at `price` a core-hour.

    Bytes and time are those of an earlier run; with `fresh`, or without such a run, a few scenes are
    made, measured and dropped.
    """
    root = open_datasets(settings)
    reused, to_build = split_reuse(plan, root)
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
        kept = None if fresh else read_cost(settings.work, to_build[0].config, root.uri)
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
        f"{duration(ahead.clock_s)} on {size}, busy {busy:.0%} of the time; without starting Ray"
    )
    # A node is paid for until the last shard is written, whether its cores are busy or not.
    core_h = ahead.clock_s * cluster.num_cores / 3600
    rows["paid for"] = f"{core_h:.2f} core-hours"
    if price is not None:
        rows["paid for"] += f", {core_h * price:.2f} at {price:g} each"
    return rows
