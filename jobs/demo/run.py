"""Every step once, small: from rendered scenes to a promoted model, by the single commands' functions."""

from __future__ import annotations

import time
from pathlib import Path

from infra.settings import Settings
from jobs.config import find_recipe, shrink_evaluation, shrink_training
from jobs.console import print_facts, progress, section
from jobs.evaluate.report import REPORT
from jobs.evaluate.run import Evaluated, evaluate
from jobs.fuse.run import bundle_of, fuse_one
from jobs.generate.run import generate, named
from jobs.promote.decision import promote
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING
from jobs.scan.run import load_index, scan_folder
from jobs.train.run import Trained, train
from models import system_of
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import Fusing
from pipelines.evaluation.rows import BASELINE, MODEL
from pipelines.evaluation.scenarios import degrade, find_scenario
from pipelines.evaluation.summaries import HEADLINE
from pipelines.sources.pictures import encode_png
from pipelines.sources.scenes import load_pair
from pipelines.store.files import write_whole
from pipelines.synthetic.pairs import write_scenes

NAME = "demo"
_SPLITS = {"train": 48, "val": 8}
_HEIGHT_PX, _WIDTH_PX = 192, 256


def demo(settings: Settings, *, smoke: bool = False) -> None:
    """Run every step, then say where everything lies. Raises ValueError when the gate refuses."""
    from infra.cluster.connect import connected

    started = time.monotonic()
    section("1/7  Render paired scenes")
    sources = settings.work / NAME / "sources"
    _render(sources)
    section("2/7  Scan them")
    scan_folder(sources, settings, name=NAME)
    with connected(settings):
        section("3/7  Generate degraded shards with contrastive groups")
        recipe = named(find_recipe(DATASETS, "small"), NAME)
        dataset = generate(recipe, settings, scenes=NAME, smoke=smoke)
        section("4/7  Train, each stage from the one before")
        trained = _train(settings, dataset.name, smoke=smoke)
        *_, last = trained.values()
        assert last.model is not None, "the last recipe registers"
        section("5/7  Evaluate on held-out scenes under degradations")
        evaluation = find_recipe(EVALUATION, "singles")
        evaluation = shrink_evaluation(evaluation) if smoke else evaluation
        evaluated = evaluate(evaluation, settings, model=last.model, scenes=NAME, split="val")
    section("6/7  Promote it, if the gate lets it pass")
    name, _, number = last.model.removeprefix("models:/").partition("/")
    promoted = promote(find_recipe(PROMOTION, "demo"), settings, name=name, version=number)
    section("7/7  Fuse a degraded pair with it")
    fused = _fuse_degraded(settings, last.model)
    section(f"Done in {time.monotonic() - started:.0f} s")
    champion = f"is version {promoted.champion}" if promoted.champion else "is no version yet"
    print_facts(
        {
            "dataset version": dataset.name,
            **_loss_lines(settings, trained),
            "registered version": last.model,
            "alias": f"{name}@champion {champion}",
            **_metric_lines(evaluated),
            "report": str(evaluated.folder / REPORT),
            "fused picture": fused,
            "MLflow UI": _ui_command(settings),
        }
    )
    # Four steps make no model worth promoting; the gate must say so, and --smoke is content.
    if not promoted.passed and not smoke:
        raise ValueError(f"the gate refused version {number}: {promoted.reasons[0]}")


def _render(folder: Path) -> None:
    with progress("scenes", sum(_SPLITS.values())) as advance:
        write_scenes(
            folder,
            split_counts=_SPLITS,
            seed=0,
            height=_HEIGHT_PX,
            width=_WIDTH_PX,
            on_progress=lambda done: advance(done),
        )


def _train(settings: Settings, dataset: str, *, smoke: bool) -> dict[str, Trained]:
    """Train the demo recipes of the first system that has some, in their order; runs by recipe."""
    recipes = {name: find_recipe(TRAINING, name) for name in TRAINING if name.endswith("_demo")}
    if not recipes:
        raise ValueError("no training recipe in jobs/recipes is called …_demo")
    system = system_of(next(iter(recipes.values())).objective)
    trained: dict[str, Trained] = {}
    for name, recipe in recipes.items():
        if system_of(recipe.objective) is not system:
            continue
        before = [f"runs:/{each.run_id}" for each in trained.values()]
        changes = {
            "dataset": dataset,
            "init_from": before[-1] if before else None,
            "register_as": recipe.register_as,  # also of a trial run
        }
        recipe = shrink_training(recipe) if smoke else recipe
        print_facts({"recipe": name})
        trained[name] = train(recipe.model_copy(update=changes), settings, name=name)
    return trained


def _fuse_degraded(settings: Settings, model: str) -> str:
    """Degrade a held-out pair, write it as files, and fuse those as `jobs.fuse` does; return the URI."""
    scene = load_index(settings, NAME).scenes.of_split("val")[0]
    scenario = find_scenario("low_light+stripe_noise")
    degraded = degrade(*load_pair(scene), scenario, seed=1, scene_key=scene.digest)
    folder = settings.work / NAME / "fused"
    vi, ir = folder / "vi.png", folder / "ir.png"
    for path, image in ((vi, degraded.vi), (ir, degraded.ir)):
        write_whole(path, encode_png(image))
    bundle = read_bundle(bundle_of(model, settings))
    chains = {"vi_chain": degraded.vi_chain, "ir_chain": degraded.ir_chain}
    fusing = Fusing(bundle=bundle, **(chains if bundle.system.hint_names else {}))
    fused = fuse_one(fusing, settings, str(vi), str(ir), str(folder / "fused.png"))
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
