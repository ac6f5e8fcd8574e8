"""What is done with dataset versions that exist: list, compare, retire."""

from __future__ import annotations

from infra.settings import Settings
from jobs.console import print_facts, print_line
from jobs.locations import open_datasets
from pipelines.datasets.compare import compare_versions
from pipelines.datasets.versions import find_version, list_versions, retire_version


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
