"""python -m jobs.generate RECIPE --scenes INDEX: make a dataset version; what is unchanged is reused.

python -m jobs.generate RECIPE … --dry-run [--cluster 64x16]   what it would make, cost and take
python -m jobs.generate verify VERSION            read every byte of it and report what is wrong
python -m jobs.generate inspect VERSION --out X   a page to look at: scenes, groups, parameters
python -m jobs.generate croissant VERSION         its metadata for catalogues of data sets, as JSON-LD
python -m jobs.generate list                      every version: date, size, and who uses it
python -m jobs.generate diff VERSION OTHER        scenes, kernels, settings and counts that differ
python -m jobs.generate retire VERSION            delete a version that no model and no run needs
python -m jobs.generate gc [--delete]             shards of no version, files of dead writers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_recipe_arguments,
    add_work,
    number,
    options_again,
    settings_of,
    whole_number,
)
from jobs.recipes import DATASETS, TRAINING

if TYPE_CHECKING:
    from infra.settings import Settings
    from pipelines.datasets.plan import DatasetConfig, ShardConfig


def _first_recipe(shard: ShardConfig) -> str:
    """The first small training recipe whose system can take what the dataset holds."""
    from degradations.operators import is_linear
    from degradations.own import parts_of
    from models import system_of

    linear = all(is_linear("vi", parts_of(name)) for name in shard.vi) and all(
        is_linear("ir", parts_of(name)) for name in shard.ir
    )
    small = [name for name in TRAINING if name.endswith("_small")]
    for name in small:
        if linear or not system_of(TRAINING[name]().objective).only_linear:
            return name
    return "RECIPE"


def read_dataset(arguments: argparse.Namespace) -> DatasetConfig:
    """The dataset that a command line names. Raises ValueError for an option without an effect."""
    from jobs.config import read_recipe

    forecast = (arguments.cluster, arguments.price, arguments.fresh_figures)
    if not arguments.dry_run and forecast != (None, None, False):
        raise ValueError(
            "--cluster, --price and --fresh-figures have an effect with --dry-run only"
        )
    if arguments.price is not None and not arguments.cluster:
        raise ValueError("--price is of a core-hour; it needs --cluster NODESxCORES")
    return read_recipe(DATASETS, arguments)


def _generate(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from jobs.generate.run import generate, named

    config = named(read_dataset(arguments), arguments.scenes)
    settings = settings_of(arguments)
    if arguments.dry_run:
        _dry_run(config, settings, arguments)
        return
    version = generate(
        config,
        settings,
        scenes=arguments.scenes,
        smoke=arguments.smoke,
        rebuild=arguments.rebuild,
        local=arguments.local,
    )
    recipe = _first_recipe(version.config.shard)
    options = "--smoke " * arguments.smoke + f"--set dataset={version.config.name}"
    where = options_again(arguments, "address", "work")
    print_line(f"next: python -m jobs.train {recipe} {options}{where}")


def _dry_run(config: DatasetConfig, settings: Settings, arguments: argparse.Namespace) -> None:
    from jobs.generate.dry_run import dry_run, plan_of
    from pipelines.datasets.forecast import ClusterSize

    cluster = ClusterSize.parse(arguments.cluster) if arguments.cluster else None
    plan = plan_of(
        config,
        settings,
        scenes=arguments.scenes,
        smoke=arguments.smoke,
        rebuild=arguments.rebuild,
    )
    dry_run(plan, settings, cluster=cluster, price=arguments.price, fresh=arguments.fresh_figures)


def _verify(arguments: argparse.Namespace) -> None:
    from jobs.generate.upkeep import verify

    verify(arguments.version, settings_of(arguments), remake=arguments.remake)


def _write_croissant(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts
    from jobs.locations import open_version
    from pipelines.datasets.croissant import croissant
    from pipelines.store.files import write_whole

    settings = settings_of(arguments)
    root, version = open_version(arguments.version, settings)
    out = arguments.out or settings.work / "reports" / f"{version.name}.croissant.json"
    described = croissant(version, root.uri, licence=arguments.licence)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(described, indent=1).encode())
    print_facts({"version": version.name, "file": str(out)})


def _inspect(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts
    from jobs.locations import open_version
    from pipelines.reports.dataset_gallery import write_gallery

    settings = settings_of(arguments)
    root, version = open_version(arguments.version, settings)
    out = arguments.out or settings.work / "reports" / f"{version.name}.html"
    write_gallery(version, root, out)
    print_facts({"version": version.name, "page": str(out)})


def _collect_garbage(arguments: argparse.Namespace) -> None:
    from jobs.console import print_line
    from jobs.generate.upkeep import collect_garbage

    settings = settings_of(arguments)
    found = collect_garbage(settings, delete=arguments.delete, min_age_h=arguments.min_age_h)
    if found and not arguments.delete:
        again = options_again(arguments, "min_age_h", "work")
        print_line(f"next: python -m jobs.generate gc --delete{again}")


def _list(arguments: argparse.Namespace) -> None:
    from jobs.generate.upkeep import show_versions

    show_versions(settings_of(arguments))


def _diff(arguments: argparse.Namespace) -> None:
    from jobs.generate.upkeep import compare

    compare(arguments.version, arguments.other, settings_of(arguments))


def _retire(arguments: argparse.Namespace) -> None:
    from jobs.generate.upkeep import retire

    retire(arguments.version, settings_of(arguments))


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="name of a version, or of a recipe for its newest")
    parser.add_argument("other", help="the same of the version to compare it with")
    add_work(parser)


def _add_retire(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="full name of a version")
    add_work(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, DATASETS)
    parser.add_argument("--scenes", required=True, help="name of a scene index, or its path")
    parser.add_argument(
        "--rebuild",
        nargs="*",
        metavar="KERNEL",
        help="make these degradations again, although nothing of theirs changed (none: everything)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be made")
    parser.add_argument(
        "--cluster",
        metavar="NODESxCORES",
        help="with --dry-run: how long it takes, for example on 64x16",
    )
    parser.add_argument(
        "--price",
        type=number(0, 1e6),
        help="with --cluster: of a core-hour, in any currency",
    )
    parser.add_argument(
        "--fresh-figures",
        action="store_true",
        help="with --dry-run: measure a few scenes here, also where an earlier run left its figures",
    )
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    add_address(parser)
    add_work(parser)


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version", help="name of a version, of a recipe for its newest, or a manifest's path or URI"
    )
    add_work(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument(
        "--remake",
        type=whole_number(0, 10**6),
        default=0,
        metavar="N",
        help="make N scenes again, and compare the bytes: finds what an upgraded library changed",
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--out", type=Path, help="the page (default: WORK/reports/VERSION.html)")


def _add_croissant(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--licence", metavar="URL", help="the terms of its sources")
    parser.add_argument(
        "--out", type=Path, help="the file (default: WORK/reports/VERSION.croissant.json)"
    )


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--min-age-h",
        type=number(0, 1e6),
        default=24.0,
        help="keep what is younger than this many hours (default: %(default)s)",
    )
    add_work(parser)


COMMAND = Command(
    "generate",
    __doc__,
    [
        "python -m jobs.generate small --scenes roadscene",
        "python -m jobs.generate paper --scenes msrs --set scenes_per_shard=128 --dry-run",
        "python -m jobs.generate verify roadscene-small",
    ],
    Verb(_add_recipe, _generate, read_dataset),
    verbs={
        "verify": Verb(_add_verify, _verify),
        "inspect": Verb(_add_inspect, _inspect),
        "croissant": Verb(_add_croissant, _write_croissant),
        "list": Verb(add_work, _list),
        "diff": Verb(_add_diff, _diff),
        "retire": Verb(_add_retire, _retire),
        "gc": Verb(_add_gc, _collect_garbage),
    },
)


if __name__ == "__main__":
    COMMAND.run()
