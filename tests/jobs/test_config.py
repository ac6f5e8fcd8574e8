import argparse
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from jobs.config import (
    describe_settings,
    find_recipe,
    override,
    read_recipe,
    shrink_evaluation,
    shrink_training,
)
from jobs.console import one_line
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING
from jobs.recipes.kinds import EvaluateRecipe
from models.dspfusion.config import DSPFusionConfig, tiny
from pipelines.datasets.plan import DatasetConfig
from pipelines.scenarios.table import Scenario, find_scenario
from pipelines.training.config import OptimConfig, TrainingConfig

ALL = {**DATASETS, **TRAINING, **EVALUATION, **PROMOTION}


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_survives_the_round_trip_and_says_what_it_is(name: str) -> None:
    config = ALL[name]()
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert ALL[name].__doc__


@pytest.mark.parametrize("name", EVALUATION)
def test_every_evaluation_recipe_names_scenarios_that_exist(name: str) -> None:
    recipe = EVALUATION[name]()
    for given in recipe.scenarios:
        scenario = find_scenario(given)
        assert given in (scenario, scenario.name)
    assert len(recipe.scenarios) >= 4
    assert shrink_evaluation(recipe).num_scenes == 2


def test_scenarios_of_ones_own_have_names_of_their_own() -> None:
    mine = Scenario(name="mine", vi=("blur", "random_noise"))
    recipe = EvaluateRecipe(scenarios=("clean", mine))
    assert EvaluateRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert override(recipe, ["num_scenes=1"]).scenarios[1] == mine
    taken = mine.model_copy(update={"name": "vi_blur"})
    for scenarios in ((mine, mine), (taken,)):
        with pytest.raises(ValidationError, match="is there already"):
            EvaluateRecipe(scenarios=scenarios)


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_recipe_shrinks_to_the_same_stage(name: str) -> None:
    recipe = TRAINING[name]()
    small = shrink_training(recipe)
    assert type(small).model_validate(small.model_dump()) == small
    assert small.objective.stage == recipe.objective.stage
    assert small.optim.num_steps == 4
    assert not small.use_gpu
    assert small.num_workers <= 2
    assert small.register_as is None


@pytest.mark.parametrize("name", [name for name in TRAINING if name.startswith("dspfusion")])
def test_a_shrunk_dspfusion_is_tiny_in_every_size_and_of_the_same_build(name: str) -> None:
    recipe = TRAINING[name]()
    small = shrink_training(recipe)
    sizes = tiny().model_dump(exclude_unset=True)
    was, now = recipe.objective.model.model_dump(), small.objective.model.model_dump()
    assert {name: now[name] for name in sizes} == sizes
    assert {k: v for k, v in now.items() if k not in sizes} == {
        k: v for k, v in was.items() if k not in sizes
    }


def test_set_changes_one_value_of_its_type() -> None:
    recipe = TRAINING["dspfusion_stage1_small"]()
    assignments = ["optim.num_steps=7", "dataset=roads", "objective.model.num_blocks=[1,2,1,1]"]
    changed = override(recipe, assignments)
    assert isinstance(changed, TrainingConfig)
    assert changed.optim.num_steps == 7
    assert changed.dataset == "roads"
    assert changed.objective.model.num_blocks == (1, 2, 1, 1)
    assert changed.optim.lr == recipe.optim.lr


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.num_step=7", r"no such key 'optim\.num_step', did you mean 'optim\.num_steps'\?"),
        ("optim.steps=7", r"did you mean 'optim\.num_steps'\?"),
        ("optm.num_steps=7", r"no such key 'optm', did you mean 'optim'\?"),
        ("optim.lr.x=7", r"no such key 'optim\.lr\.x'; there are: none below it"),
        ("optim.num_steps", "write KEY=VALUE"),
    ],
)
def test_a_misspelt_key_is_named(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(TRAINING["dspfusion_stage1_small"](), [assignment])


def test_a_bad_value_is_one_line_with_its_path() -> None:
    with pytest.raises(ValidationError) as caught:
        override(TRAINING["dspfusion_stage1_small"](), ["optim.num_steps=none"])
    line = one_line(caught.value)
    assert "optim.num_steps" in line
    assert "valid integer" in line
    assert "\n" not in line


HOSTILE = ("NaN", "-Infinity", "1e400", '"nan"', "-1", "1" + "0" * 30, "7" * 5000, "[" * 100_000)


@pytest.mark.parametrize("name", ["small", "dspfusion_stage2_small", "singles", "default"])
def test_a_number_that_no_setting_means_is_one_line_with_the_key(name: str) -> None:
    config = ALL[name]()
    leaves = [line.partition(" = ")[::2] for line in describe_settings(config)]
    numbers = [key for key, value in leaves if value[0].isdigit()]
    assert numbers
    for key in numbers:
        for value in HOSTILE:
            with pytest.raises(ValueError, match=re.escape(key.rpartition(".")[2])) as caught:
                read(name, f"{key}={value}")
            line = one_line(caught.value)
            assert len(line) < 2100
            assert "\n" not in line


def read(name: str, *overrides: str) -> BaseModel:
    arguments = argparse.Namespace(recipe=name, overrides=overrides, smoke=False)
    recipes = next(each for each in (DATASETS, TRAINING, EVALUATION, PROMOTION) if name in each)
    return read_recipe(recipes, arguments)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.batch_size=1000000000", r"optim\.batch_size: .* less than or equal to 4096"),
        ("optim.crop_px=1000000000", r"optim\.crop_px: .* less than or equal to 8192"),
        ("optim.batch_size=4096", r"batch_size 4096 of crop_px \d+ is a batch of \d+ pixels"),
        ("optim.betas=[0.9,1.5]", r"optim\.betas\.1: "),
        ('optim={"num_steps": 4, "lr": NaN}', r"optim\.lr=nan: give a number"),
        ("freeze=" + "[" * 40 + "]" * 40, r"freeze\S*: lists within lists, more than 16 deep"),
    ],
)
def test_sizes_that_no_machine_holds(assignment: str, message: str) -> None:
    overrides = [assignment, "optim.crop_px=512"] if "4096" in assignment else [assignment]
    with pytest.raises(ValueError, match=r"optim|freeze") as caught:
        read("dspfusion_stage1_small", *overrides)
    assert re.search(message, one_line(caught.value))


def test_an_unknown_recipe_lists_the_others() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'small'.*there are: small, paper"):
        find_recipe(DATASETS, "smal")


@pytest.mark.parametrize("name", ALL)
def test_the_settings_that_are_shown_can_be_set(name: str) -> None:
    """Every line, without its documentation, is an assignment; together they are the recipe."""
    config = ALL[name]()
    settings = [line.partition("  # ")[0] for line in describe_settings(config)]
    assert override(config, settings) == config
    assert len(settings) >= 6


@pytest.mark.parametrize("name", [*DATASETS, *EVALUATION, *PROMOTION])
def test_every_setting_is_documented(name: str) -> None:
    assert [line for line in describe_settings(ALL[name]()) if "  # " not in line] == []


_OWN = """
from jobs.recipes.kinds import EvaluateRecipe
from pipelines.datasets.plan import DatasetConfig
from jobs.recipes.datasets import small

def few() -> DatasetConfig:
    return small().model_copy(update={"scenes_per_shard": 6})

def judged() -> EvaluateRecipe:
    return EvaluateRecipe(scenarios=("clean",))

def any_size(size: int) -> DatasetConfig:
    return small()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of recipes outside the repository, on the path."""
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "night_recipes.py").write_text(_OWN)
    (tmp_path / "team" / "broken_recipes.py").write_text("import absent_package")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own")
def test_a_recipe_of_ones_own() -> None:
    config = find_recipe(DATASETS, "team.night_recipes:few")
    assert (config.name, config.scenes_per_shard) == ("small", 6)
    assert find_recipe(EVALUATION, "team.night_recipes:judged").scenarios == ("clean",)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("team.day:few", r"team\.day:few: No module named 'team\.day'; .* on PYTHONPATH"),
        ("team.broken_recipes:few", "No module named 'absent_package'"),
        ("team.night_recipes:fw", "has no function 'fw', did you mean 'few'"),
        ("team.night_recipes:judged", "returns EvaluateRecipe; this command needs DatasetConfig"),
        ("team.night_recipes:any_size", "a function without arguments"),
        ("team/night_recipes.py:few", "write MODULE:FUNCTION"),
        ("team.night_recipes:", "write MODULE:FUNCTION"),
    ],
)
def test_what_is_wrong_with_a_recipe_of_ones_own(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        find_recipe(DATASETS, name)
    assert "\n" not in one_line(caught.value)


def test_defaults_of_the_published_optimiser() -> None:
    optim = TRAINING["dspfusion_stage1_full_1gpu"]().optim
    assert (optim.batch_size, optim.crop_px, optim.lr, optim.clip_norm) == (4, 224, 2e-4, 0.01)
    assert (optim.betas, optim.weight_decay) == ((0.9, 0.999), 1e-4)


def rate(step: int, optim: OptimConfig) -> float:
    return optim.schedule.rate(step, num_steps=optim.num_steps, lr=optim.lr)


@pytest.mark.parametrize("num_gpus", [1, 8])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_what_paper_and_code_say(stage: str, num_gpus: int) -> None:
    """Spec 2.3, the table, column by column."""
    code = TRAINING[f"dspfusion_{stage}_code_{num_gpus}gpu"]()
    paper = TRAINING[f"dspfusion_{stage}_paper_{num_gpus}gpu"]()
    for recipe in (code, paper):
        assert (recipe.num_workers, recipe.use_gpu) == (num_gpus, True)
        # 4 samples, or one a GPU where there are more GPUs than samples.
        assert recipe.optim.batch_size * num_gpus == max(4, num_gpus)
        assert (recipe.optim.lr, recipe.optim.schedule.lr_min, recipe.optim.crop_px) == (
            2e-4, 1e-6, 224
        )  # fmt: skip
        assert recipe.register_as == (None if stage == "stage1" else "dspfusion")
    assert (code.optim.num_steps, paper.optim.num_steps) == (500_000, 50_000)
    assert rate(350_000, code.optim) == pytest.approx(1.70857e-4, rel=1e-5)
    assert rate(25_000, paper.optim) == pytest.approx(1.005e-4, rel=1e-5)
    assert (code.optim.betas, paper.optim.betas) == ((0.9, 0.999), (0.9, 0.99))
    assert code.optim.late is not None
    assert code.optim.late.from_step == 300_000
    assert code.optim.late.crop_px == 256
    assert code.optim.late.batch_size == (3 if num_gpus == 1 else 1)
    assert paper.optim.late is None
    weights = {name: recipe.objective.fusion_weights for name, recipe in
               (("code", code), ("paper", paper))}  # fmt: skip
    assert dict(weights["code"]) == {
        "intensity_max": 15, "intensity_consistency": 1, "color": 20, "gradient": 10, "ssim": 2
    }  # fmt: skip
    assert dict(weights["paper"]) == dict(weights["code"]) | {
        "intensity_consistency": 0,
        "gradient": 11.25,
    }
    assert code.objective.content_target == "brighter_source"
    assert paper.objective.content_target == "element_maximum"
    assert code.objective.model == DSPFusionConfig()
    assert not paper.objective.model.dpmm_convolution
    assert paper.objective.model.denoiser_predicts == "noise"


def test_what_decides_no_weights_is_not_in_the_identity() -> None:
    recipe = TRAINING["dspfusion_stage1_demo"]()
    identity = recipe.identity()
    for change in ("preview_every=7", "use_gpu=true", "optim.log_every=3", "dataset=other"):
        assert override(recipe, [change]).identity() == identity
    for change in (
        "objective.model.semantic_prior=false",
        "objective.degradation_start=contrast",
        "objective.degradation_rate=0.5",
        "optim.late_crop_px=72",
        'freeze=["fusion.*"]',
        "num_workers=4",
    ):
        assert override(recipe, [change]).identity() != identity


def test_crops_are_what_the_networks_take() -> None:
    recipe = TRAINING["dspfusion_stage1_demo"]()
    for change in ("optim.crop_px=60", "optim.late_crop_px=100"):
        with pytest.raises(ValidationError, match="dspfusion takes multiples of 8 px, 16 at least"):
            override(recipe, [change])


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DatasetConfig(name="d").name = "e"  # type: ignore[misc]
