import pytest
from pydantic import ValidationError

from jobs.config import (
    TrainRecipe,
    find_recipe,
    override,
    shrink_evaluation,
    shrink_training,
)
from jobs.console import one_line
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING
from models.dspfusion.config import tiny
from pipelines.plan import DatasetConfig
from pipelines.scenarios import find_scenario
from pipelines.training import TrainingConfig, make_objective

ALL = {**DATASETS, **TRAINING, **EVALUATION, **PROMOTION}


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_survives_the_round_trip_and_says_what_it_is(name: str) -> None:
    config = ALL[name]()
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert ALL[name].__doc__


@pytest.mark.parametrize("name", EVALUATION)
def test_every_evaluation_recipe_names_scenarios_that_exist(name: str) -> None:
    recipe = EVALUATION[name]()
    assert [find_scenario(scenario).name for scenario in recipe.scenarios] == list(recipe.scenarios)
    assert len(recipe.scenarios) >= 4
    assert shrink_evaluation(recipe).num_scenes == 2


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_recipe_shrinks_to_the_same_stage(name: str) -> None:
    recipe = TRAINING[name]()
    small = shrink_training(recipe)
    assert small.objective.stage == recipe.objective.stage
    assert small.objective.model == tiny()
    assert small.optim.num_steps == 4
    if recipe.objective.stage == "stage1":
        make_objective(TrainingConfig(objective=small.objective, optim=small.optim, dataset="d"))


def test_set_changes_one_value_of_its_type() -> None:
    recipe = TRAINING["dspfusion_stage1_small"]()
    assignments = ["optim.num_steps=7", "dataset=roads", "objective.model.num_blocks=[1,2,1,1]"]
    changed = override(recipe, assignments)
    assert isinstance(changed, TrainRecipe)
    assert changed.optim.num_steps == 7
    assert changed.dataset == "roads"
    assert changed.objective.model.num_blocks == (1, 2, 1, 1)
    assert changed.optim.lr == recipe.optim.lr


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.num_step=7", r"no such key 'optim\.num_step', did you mean 'optim\.num_steps'\?"),
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


def test_an_unknown_recipe_lists_the_others() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'small'.*there are: small, paper"):
        find_recipe(DATASETS, "smal")


def test_defaults_of_the_published_optimiser() -> None:
    optim = TRAINING["dspfusion_stage1_full_1gpu"]().optim
    assert (optim.batch_size, optim.crop_px, optim.lr, optim.clip_norm) == (4, 224, 2e-4, 0.01)
    assert (optim.betas, optim.weight_decay) == ((0.9, 0.999), 1e-4)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DatasetConfig(name="d").name = "e"  # type: ignore[misc]
