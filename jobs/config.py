"""Recipes as commands see them: complete typed configurations, `--set a.b=c`, `--smoke`, `--show`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.settings import forbid_update_checks
from jobs.recipes import Recipes
from models import system_of
from models.metrics import METRICS
from pipelines.evaluation.baselines import Baseline
from pipelines.promotion.gate import GateConfig
from pipelines.results.rows import ScoreName
from pipelines.scenarios.table import TABLE, Scenario
from pipelines.store.names import nearest
from pipelines.store.seeding import Seed
from pipelines.training.config import TrainingConfig

_INT_LIMIT, _FLOAT_LIMIT, _MAX_DEPTH = 2**63, 1e12, 16
_Config = TypeVar("_Config", bound=BaseModel)


class EvaluateRecipe(BaseModel):
    """An evaluation. The average is always among the baselines: a first version is judged against it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scenarios: tuple[str | Scenario, ...]
    """What is done to the pictures before they are fused: names of the table, or scenarios of your own."""
    baselines: tuple[Baseline, ...] = ("average", "maximum")
    """Classical methods to measure too; the average is one of them."""
    steps: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = ()
    """Other numbers of sampling steps to try on the example scenes."""
    num_scenes: int | None = Field(default=None, ge=1)
    """How many scenes of the split; null for all."""
    num_examples: int = Field(default=3, ge=0, le=1000)
    """Scenes that are shown as pictures in the report."""
    seed: Seed = 0
    """Of the degradations that are drawn."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones, such as Q_MI, Q_NCIE, Q_CB, Q_P and Q_W of DRFusion's paper."""
    scores: tuple[ScoreName, ...] = ()
    """Learned scores by pyiqa: LPIPS_target, MUSIQ, PI, TReS."""
    sequence: bool = False
    """Whether the scenes are numbered frames: measures their flicker, too."""
    detector: Path | None = None
    """An ONNX file: what it finds in fused degraded pairs is compared with fused clean ones."""
    labels: Path | None = None
    """A folder of labelled boxes (YOLO, VOC) for the detector's AP; null: beside the visible pictures."""

    @field_validator("scenarios")
    @classmethod
    def _have_names_of_their_own(
        cls, scenarios: tuple[str | Scenario, ...]
    ) -> tuple[str | Scenario, ...]:
        taken = {scenario.name for scenario in TABLE}
        ours = [scenario.name for scenario in scenarios if isinstance(scenario, Scenario)]
        for name in ours:
            if name in taken or ours.count(name) > 1:
                raise ValueError(f"a scenario {name!r} is there already; choose another name")
        return scenarios

    @model_validator(mode="after")
    def _labels_are_for_a_detector(self) -> Self:
        if self.labels and not self.detector:
            raise ValueError(f"labels {self.labels}: they are for a detector; name one, too")
        return self

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS:
                raise ValueError(f"no metric {name!r}{nearest(name, METRICS)}")
        return names

    @field_validator("baselines")
    @classmethod
    def _has_the_average(cls, names: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
        if "average" not in names or len(set(names)) != len(names):
            raise ValueError(f"{list(names)}: name the average, and each baseline once")
        return names


class PromoteRecipe(BaseModel):
    """What the gate asks of a challenger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gate: GateConfig = GateConfig()
    split: str = "val"
    """The split that a version has to be evaluated on."""
    scenarios: Annotated[tuple[str, ...], Field(min_length=1)]
    """The scenarios that are judged; those of an evaluation that are not among them do not count."""
    parity_tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Largest difference of the served program from the evaluated module, in [0, 1]: 1e-3 would be a
    quarter of the smallest step of an 8-bit picture."""


class PretrainRecipe(BaseModel):
    """Weights that come with the repository: what they are trained on, and how, from nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dataset: str
    """Dataset recipe."""
    trainings: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    """Training recipes in order, each from the weights of the one before, and what is set otherwise."""
    evaluation: str = "all"
    """Evaluation recipe, on the split `val`."""


def find_recipe(recipes: Recipes[_Config], name: str) -> _Config:
    """Call the recipe of that name, or the function that `MODULE:FUNCTION` names.

    Raises ValueError that lists the recipes, or says what is wrong with the function.
    """
    if ":" in name:
        config = _function_of(name)()
    elif name in recipes:
        config = recipes[name]()
    else:
        raise ValueError(
            f"no recipe {name!r}{nearest(name, recipes)}; there are: {', '.join(recipes)}; "
            "one of yours is written MODULE:FUNCTION"
        )
    if not recipes.accepts(config):
        wanted = recipes.types[0].partition(":")[2]
        raise ValueError(
            f"recipe {name}: returns {type(config).__name__}; this command needs {wanted}"
        )
    return config


def _function_of(name: str) -> Callable[[], Any]:
    """The function that `MODULE:FUNCTION` names. Raises ValueError when there is none to call."""
    module_name, _, function_name = name.partition(":")
    if not (module_name.replace(".", "_").isidentifier() and function_name.isidentifier()):
        raise ValueError(f"recipe {name}: write MODULE:FUNCTION, for example team.recipes:small")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"recipe {name}: {error}; modules are found from the repository root and on PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(
            f"recipe {name}: {module_name} has no function {function_name!r}"
            f"{nearest(function_name, vars(module))}"
        )
    if inspect.signature(function).parameters:
        raise ValueError(f"recipe {name}: a recipe is a function without arguments")
    found: Callable[[], Any] = function
    return found


def read_recipe(
    recipes: Recipes[_Config],
    arguments: argparse.Namespace,
    shrink: Callable[[_Config], _Config] | None = None,
) -> _Config:
    """The recipe that a command line names: made smaller for `--smoke`, then changed by `--set`."""
    forbid_update_checks()  # before a recipe of the user's imports albumentations
    config = find_recipe(recipes, arguments.recipe)
    if shrink and arguments.smoke:
        config = shrink(config)
    config = override(config, arguments.overrides)
    for key, value in config.model_dump().items():  # pydantic takes "nan" for a number, too
        _check_numbers(value, key)
    return config


def describe_settings(config: BaseModel, *, prefix: str = "") -> Iterator[str]:
    """A line `key = value  # documentation` for every setting, as `--set` takes keys and values."""
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from describe_settings(value, prefix=f"{prefix}{name}.")
        else:
            documentation = " ".join((field.description or "").split())
            line = f"{prefix}{name} = {json.dumps(values[name])}"
            yield f"{line}  # {documentation}" if documentation else line


def override(config: _Config, assignments: Sequence[str]) -> _Config:
    """Apply `a.b=value` assignments (values are JSON, or plain text) and validate the whole again.

    Raises ValueError with the path of a key that does not exist, and the nearest that does.
    """
    if not assignments:
        return config
    tree = config.model_dump(mode="json")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write KEY=VALUE")
        value = _parse_value(text.strip())
        _check_numbers(value, path.strip())
        _assign(tree, path.strip(), value)
    return type(config).model_validate(tree)


def has_setting(config: BaseModel, assignment: str) -> bool:
    """Whether a `--set KEY=VALUE` is one that a configuration takes."""
    try:
        override(config, [assignment])
    except ValueError:
        return False
    return True


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    for depth, key in enumerate([*parents, last]):
        if not isinstance(node, dict) or key not in node:
            known = node if isinstance(node, dict) else {}
            above = "".join(f"{parent}." for parent in parents[:depth])
            raise ValueError(
                f"--set {path}: no such key {'.'.join([*parents, last][: depth + 1])!r}"
                f"{nearest(key, known, prefix=above)}; there are: {', '.join(known) or 'none below it'}"
            )
        if depth < len(parents):
            node = node[key]
    node[last] = value


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, an integer of thousands of digits, very deep
        return text


def _check_numbers(value: Any, path: str, *, depth: int = 0) -> None:
    """Raise ValueError for a number that no setting means, and for a value of too many levels.

    Every field has its own bounds besides; these hold for the fields of all systems.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"{path}: lists within lists, more than {_MAX_DEPTH} deep")
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _check_numbers(item, f"{path}.{key}", depth=depth + 1)
    elif isinstance(value, int) and abs(value) >= _INT_LIMIT:
        raise ValueError(f"{path}: a whole number of more than 64 bits; give a smaller one")
    elif isinstance(value, float) and not abs(value) <= _FLOAT_LIMIT:  # NaN is not, either
        raise ValueError(f"{path}={value:g}: give a number within ±{_FLOAT_LIMIT:g}")


def shrink_training(config: TrainingConfig) -> TrainingConfig:
    """`--smoke`: networks of tiny sizes, four steps, at most two workers on CPUs, the same code.

    What the networks are made of, the losses and the optimiser stay the recipe's.
    """
    system, optim = system_of(config.objective), config.optim
    crop_px = -(-32 // system.multiple_px) * system.multiple_px
    steps = {"num_steps": 4, "batch_size": 2, "log_every": 2, "checkpoint_every": 2}
    sizes = {
        "crop_px": crop_px,
        "late_crop_px": optim.late_crop_px and crop_px + system.multiple_px,
        "late_batch_size": optim.late_batch_size and 1,
    }
    changes = {
        "objective": system.shrink(config.objective),
        "optim": optim.model_copy(update=steps | sizes),
        "num_workers": min(config.num_workers, 2),
        "use_gpu": False,
        "preview_every": config.preview_every and 2,
        "validation": config.validation
        and config.validation.model_copy(update={"every": 2, "num_scenes": 2}),
        # A trial run is not registered: it would take the challenger's place.
        "register_as": None,
    }
    return config.model_copy(update=changes)


def shrink_evaluation(recipe: EvaluateRecipe) -> EvaluateRecipe:
    """`--smoke`: two scenes under the first two scenarios, against average and maximum."""
    return recipe.model_copy(
        update={
            "scenarios": recipe.scenarios[:2],
            "baselines": ("average", "maximum"),
            "steps": recipe.steps[:1],
            "num_scenes": 2,
            "num_examples": 1,
        }
    )
