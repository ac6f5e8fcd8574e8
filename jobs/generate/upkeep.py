"""What is done with dataset versions that exist: list, compare, verify, retire, clean up after."""

from __future__ import annotations

import time

from infra.periodic import periodically
from infra.settings import Settings, who_runs
from jobs.console import print_facts, print_line, progress
from jobs.generate.run import holds
from jobs.locations import open_datasets, open_version, source_reader
from pipelines.datasets.compare import compare_versions
from pipelines.datasets.garbage import Garbage, delete_garbage, find_garbage
from pipelines.datasets.shards.writing import libraries
from pipelines.datasets.under_way import HEARTBEAT_S, announced
from pipelines.datasets.verify import remake_scenes, verify_version
from pipelines.datasets.versions import DatasetVersion, find_version, list_versions, retire_version
from pipelines.store.folders import Folder


def show_versions(settings: Settings) -> None:
    """Print each version: when it was made, its size, its scenes, and who uses it."""
    from infra.registry import dataset_uses, tracking

    root = open_datasets(settings)
    uses = dataset_uses.find_dataset_uses(tracking.connect(settings))
    versions = sorted(list_versions(root), key=lambda version: version.created)
    for version in versions:
        users = [use.user for use in uses if use.dataset == version.name]
        used = ", ".join(users) or "nobody"
        size = f"{version.num_bytes / 2**20:.1f} MiB, {version.num_scenes} scenes"
        print_line(f"  {version.name}  {version.created[:16]}  {size}, of {version.config.name}")
        print_line(f"      used by {used}")
    print_facts({"versions": f"{len(versions)} in {root.uri}"})


def compare(first: str, second: str, settings: Settings) -> None:
    """Print what changed from one version to another."""
    root = open_datasets(settings)
    old, new = find_version(root, first), find_version(root, second)
    print_facts({"from": old.name, "to": new.name})
    print_facts(dict(compare_versions(old, new, root)) or {"changes": "none"})


def retire(name: str, settings: Settings) -> None:
    """Delete a version's manifest. Raises ValueError when a registered version or a run needs it."""
    from infra.registry import dataset_uses, tracking

    root = open_datasets(settings)
    client = tracking.connect(settings)

    def in_use() -> list[str]:
        uses = dataset_uses.find_dataset_uses(client)
        return [use.user for use in uses if use.needs and use.dataset == name]

    retire_version(root, name, in_use)
    print_facts({"retired": name})
    print_line("next: python -m jobs.generate gc --delete")


def verify(version_or_uri: str, settings: Settings, *, remake: int = 0) -> None:
    """Check a version, and make so many of its scenes again. Raises ValueError that names what is wrong."""
    # The cache was checked when it was filled; this asks the store itself.
    root, version = open_version(version_or_uri, settings, cached=False)
    with progress("shards", len(version.shards)) as advance:
        problems = verify_version(version, root, on_progress=lambda done, _: advance(done))
    for problem in problems:
        print_line(problem)
    if problems:
        raise ValueError(f"{version.name} is not whole: {len(problems)} problems, listed above")
    print_facts({"whole": version.name, "holds": holds(version)})
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
    if not root.may_list:
        raise ValueError(
            f"{root.uri}: these credentials may not list it, which takes s3:ListBucket"
        )
    with (
        announced(root, "gc", who_runs()) as announcement,
        periodically(announcement.send_heartbeat, every_s=HEARTBEAT_S),
    ):
        generations = announcement.generations()
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
