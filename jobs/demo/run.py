"""Every step once, small: from rendered scenes to a promoted model, by the single commands' functions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from infra.settings import Settings
from jobs.config import find_recipe, shrink_evaluation, shrink_training
from jobs.console import print_facts, progress, section
from jobs.evaluate.report import REPORT
from jobs.evaluate.run import Evaluated, evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import Asked
from jobs.fuse.run import FuseTask, bundle_of, fuse_one
from jobs.generate.run import generate, named
from jobs.promote.decision import promote
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING
from jobs.scan.run import load_index, scan_folder
from jobs.train.run import Trained, train
from models import system_of
from models.system import System
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import Fusing
from pipelines.results.rows import BASELINE, MODEL
from pipelines.results.summaries import HEADLINE
from pipelines.scenarios.degraded_pairs import degrade
from pipelines.scenarios.table import find_scenario
from pipelines.sources.layouts import Layout
from pipelines.sources.names import normalise_name
from pipelines.sources.pictures import encode_png
from pipelines.sources.scan import ScanRules
from pipelines.sources.scenes import load_pair
from pipelines.store.files import write_whole
from pipelines.synthetic.pairs import write_scenes
from pipelines.training.config import TrainingConfig
from pipelines.training.objectives import seconds_a_step

NAME = "demo"
_SPLITS = {"train": 48, "val": 8}
_FEW = {"train": 8, "val": 2}
_HEIGHT_PX, _WIDTH_PX = 192, 256
# The share of pairs without a val split that becomes it.
_HELD_OUT = 0.2


@dataclass(frozen=True)
class OwnPairs:
    """A person's pairs instead of rendered ones, and the minutes that the training may take."""

    folder: str
    minutes: float

    @property
    def name(self) -> str:
        """The name of their index, datasets and model."""
        return normalise_name(Path(self.folder).resolve().name).strip("_-")


def demo(settings: Settings, *, smoke: bool = False, own: OwnPairs | None = None) -> str:
    """Run every step, then say where everything lies; return the registered version's URI.

    Raises ValueError when the gate refuses what was trained on rendered scenes; of `own` pairs there
    may be too few for it, which is said.
    """
    from infra.cluster.connect import connected

    started, index = time.monotonic(), own.name if own else NAME
    section("1/7  Take your pairs" if own else "1/7  Render paired scenes")
    sources = own.folder if own else _rendered(settings, _FEW if smoke else _SPLITS)
    section("2/7  Scan them")
    scan_folder(sources, settings, name=index, rules=ScanRules(layout=Layout(hold_out=_HELD_OUT)))
    with connected(settings):
        section("3/7  Generate degraded shards with contrastive groups")
        recipe = named(find_recipe(DATASETS, "small"), index)
        dataset = generate(recipe, settings, scenes=index, smoke=smoke)
        section("4/7  Train, from the weights that come with this repository")
        trained = _train(settings, dataset.name, smoke=smoke, own=own)
        *_, last = trained.values()
        assert last.model is not None, "the last recipe registers"
        section("5/7  Evaluate on held-out scenes under degradations")
        evaluation = find_recipe(EVALUATION, "singles")
        evaluation = shrink_evaluation(evaluation) if smoke else evaluation
        evaluated = evaluate(evaluation, settings, Asked(last.model, SceneChoice(index)))
    section("6/7  Promote it, if the gate lets it pass")
    promoted = promote(find_recipe(PROMOTION, "demo"), settings, model=last.model)
    section("7/7  Fuse a degraded pair with it")
    fused = _fuse_degraded(settings, last.model, index)
    section(f"Done in {time.monotonic() - started:.0f} s")
    champion = f"is version {promoted.champion}" if promoted.champion else "is no version yet"
    print_facts(
        {
            "dataset version": dataset.name,
            **_loss_lines(settings, trained),
            "registered version": last.model,
            "alias": f"{last.model.split('/')[1]}@champion {champion}",
            **_metric_lines(evaluated),
            "report": str(evaluated.folder / REPORT),
            "fused picture": fused,
            "MLflow UI": _ui_command(settings),
        }
    )
    # Four steps make no model worth promoting; the gate must say so, and --smoke is content.
    if not promoted.passed and not smoke and own is None:
        raise ValueError(f"the gate refused version {promoted.version}: {promoted.reasons[0]}")
    return last.model


def _rendered(settings: Settings, split_counts: dict[str, int]) -> Path:
    """Render street scenes; return their folder."""
    folder = settings.work / NAME / "sources"
    with progress("scenes", sum(split_counts.values())) as advance:
        write_scenes(
            folder,
            split_counts=split_counts,
            seed=0,
            height=_HEIGHT_PX,
            width=_WIDTH_PX,
            on_progress=lambda done: advance(done),
        )
    return folder


def _train(
    settings: Settings, dataset: str, *, smoke: bool, own: OwnPairs | None
) -> dict[str, Trained]:
    """Train the demo recipes of the first system that has some, in their order; runs by recipe.

    Weights that a recipe starts from stand for the recipes before it; a trial run's networks are other
    ones, and it takes them all.
    """
    recipes = {name: find_recipe(TRAINING, name) for name in TRAINING if name.endswith("_demo")}
    if not recipes:
        raise ValueError("no training recipe in jobs/recipes is called …_demo")
    system = system_of(next(iter(recipes.values())).objective)
    trained: dict[str, Trained] = {}
    for name, recipe in _needed(recipes, system, smoke=smoke).items():
        before = [f"runs:/{each.run_id}" for each in trained.values()]
        changes = {"dataset": dataset, "init_from": before[-1] if before else recipe.init_from}
        if smoke:
            # Registered, too, unlike other trial runs.
            changes |= {"init_from": before[-1] if before else None}
            changes |= {"register_as": recipe.register_as}
            recipe = shrink_training(recipe)
        elif own:
            recipe = _timed(recipe, own)
        print_facts({"recipe": name, "steps": str(recipe.optim.num_steps)})
        trained[name] = train(recipe.model_copy(update=changes), settings, name=name)
    return trained


def _needed(
    recipes: dict[str, TrainingConfig], system: System, *, smoke: bool
) -> dict[str, TrainingConfig]:
    ours = [name for name, each in recipes.items() if system_of(each.objective) is system]
    given = [place for place, name in enumerate(ours) if recipes[name].init_from and not smoke]
    return {name: recipes[name] for name in ours[max(given, default=0) :]}


def _timed(recipe: TrainingConfig, own: OwnPairs) -> TrainingConfig:
    """As many steps as the minutes allow, under the name of the pairs."""
    # Workers share the cores' caches and wait for each other, for batches and for the pictures between.
    allowed = own.minutes * 60 / (2 * seconds_a_step(recipe))
    # One digit: the same command again finds the same run, though its measurement differs a little.
    num_steps = max(20, int(float(f"{min(allowed, 20_000):.0e}")))
    optim = recipe.optim.model_copy(update={"num_steps": num_steps})
    changes = {"optim": optim, "register_as": f"{system_of(recipe.objective).name}-{own.name}"}
    return recipe.model_copy(update=changes)


def _fuse_degraded(settings: Settings, model: str, index: str) -> str:
    """Degrade a held-out pair, write it as files, and fuse those as `jobs.fuse` does; return the URI."""
    scene = load_index(settings, index).scenes.of_split("val")[0]
    scenario = find_scenario("low_light+stripe_noise")
    degraded = degrade(*load_pair(scene), scenario, seed=1, scene_key=scene.digest)
    folder = settings.work / index / "fused"
    vi, ir = folder / "vi.png", folder / "ir.png"
    for path, image in ((vi, degraded.vi), (ir, degraded.ir)):
        write_whole(path, encode_png(image))
    bundle = read_bundle(bundle_of(model, settings))
    chains = {"vi_chain": degraded.vi_chain, "ir_chain": degraded.ir_chain}
    told = chains if bundle.system.hint_names else {}
    fusing = Fusing(bundle=bundle, side_by_side=True, **told)
    fused = fuse_one(fusing, settings, FuseTask(str(vi), str(ir), str(folder / "fused.png")))
    print_facts({"degraded": f"{vi}, {ir.name}", "fused": fused})
    return fused


def _loss_lines(settings: Settings, trained: dict[str, Trained]) -> dict[str, str]:
    from infra.registry import tracking

    client = tracking.connect(settings)
    lines = {}
    for title, run_id in ((name, each.run_id) for name, each in trained.items()):
        (first, before), *_, (last, after) = tracking.metric_curve(client, run_id, "loss")
        lines[title] = f"{run_id}   loss {before:.2f} at step {first}, {after:.2f} at step {last}"
    return lines


def _metric_lines(evaluated: Evaluated) -> dict[str, str]:
    ours, average = evaluated.means[MODEL], evaluated.means[BASELINE]
    return {
        f"{metric}": f"{ours[metric]:.4f}   source average {average[metric]:.4f}"
        for metric in HEADLINE
    }


def _ui_command(settings: Settings) -> str:
    if not settings.tracking_uri.startswith("sqlite:"):
        return settings.tracking_uri
    work = settings.work
    shown = work.relative_to(Path.cwd()) if work.is_relative_to(Path.cwd()) else work
    return f".venv/bin/mlflow ui --backend-store-uri sqlite:///{shown}/mlflow.db"
