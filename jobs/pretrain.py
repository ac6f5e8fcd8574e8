"""python -m jobs.pretrain NAME PAIRS: make weights that come with this repository again.

PAIRS is a folder that `jobs.scan` reads, with a split `val`. The recipe says what is trained on it, in
which order; each step is skipped that is done already. The weights, their card's numbers and the
pictures that they saw are written to OUT (work/pretrained/NAME).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command_line import Command, Verb, add_address, add_work, settings_of
from jobs.recipes import DATASETS, EVALUATION, PRETRAINING, TRAINING

if TYPE_CHECKING:
    from infra.settings import Settings
    from jobs.recipes.kinds import PretrainRecipe
    from jobs.train.run import Trained

ROWS = "evaluation.parquet"


def _pretrain(arguments: argparse.Namespace) -> None:
    from jobs.config import find_recipe
    from jobs.console import print_facts

    settings = settings_of(arguments)
    recipe = find_recipe(PRETRAINING, arguments.name)
    out = arguments.out or settings.work / "pretrained" / arguments.name
    pretrain(recipe, settings, pairs=arguments.pairs, out=out)
    print_facts({"weights": str(out)})


def pretrain(recipe: PretrainRecipe, settings: Settings, *, pairs: str, out: Path) -> None:
    """Scan `pairs`, generate, train, evaluate, and write the weights to `out`.

    Raises ValueError for the mistakes of each of these commands.
    """
    from infra.cluster.connect import connected
    from infra.settings import code_commit
    from jobs.config import find_recipe
    from jobs.evaluate.run import evaluate
    from jobs.evaluate.scenes import SceneChoice
    from jobs.evaluate.subject import ROWS as MEASURED
    from jobs.evaluate.subject import Asked
    from jobs.generate.run import generate, named
    from jobs.locations import source_reader
    from jobs.scan.run import scan_folder
    from pipelines.bundles.pretrained import write_pretrained, write_types
    from pipelines.store.files import write_whole

    name = Path(pairs).name
    scenes = scan_folder(pairs, settings, name=name).scenes
    with connected(settings):
        config = named(find_recipe(DATASETS, recipe.dataset), name)
        dataset = generate(config, settings, scenes=name)
        last = _train(recipe, settings, dataset.name)
        evaluation = find_recipe(EVALUATION, recipe.evaluation)
        asked = Asked(str(last.model), SceneChoice(name))
        evaluated = evaluate(evaluation, settings, asked)
    origin = {"commit": code_commit(), "dataset_digest": dataset.digest}
    trained = scenes.of_split(config.split)
    write_pretrained(out, _checkpoint(last, settings), origin=origin, scenes=trained)
    write_types(out, trained, config.shard, source_reader(settings))
    write_whole(out / ROWS, (evaluated.folder / MEASURED).read_bytes())


def _train(recipe: PretrainRecipe, settings: Settings, dataset: str) -> Trained:
    """Run the trainings in order, each from the weights of the one before; return the last."""
    from jobs.config import find_recipe, override
    from jobs.train.run import train

    trained: Trained | None = None
    for title, changes in recipe.trainings.items():
        changes = (*changes, f"dataset={dataset}")
        if trained:
            changes = (*changes, f"init_from=runs:/{trained.run_id}")
        config = override(find_recipe(TRAINING, title), changes)
        trained = train(config, settings, name=title)
    if trained is None or trained.model is None:
        raise ValueError("the last training of a pretraining has to register its model")
    return trained


def _checkpoint(trained: Trained, settings: Settings) -> Path:
    from infra.registry import tracking
    from jobs.locations import cached_folder

    kept = cached_folder(f"pretrained-{trained.run_id}", settings)
    return tracking.fetch_folder(trained.run_id, "checkpoint", kept)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=f"{' or '.join(PRETRAINING)}, or MODULE:FUNCTION")
    parser.add_argument("pairs", help="folder or s3:// prefix of pairs, with a split val")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    add_address(parser)
    add_work(parser)


COMMAND = Command(
    "pretrain",
    __doc__,
    ["python -m jobs.pretrain small ../shared/data/ivif"],
    Verb(_add_arguments, _pretrain),
)


if __name__ == "__main__":
    COMMAND.run()
