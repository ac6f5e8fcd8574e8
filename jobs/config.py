"""Recipes as commands see them: complete typed configurations, `--set a.b=c`, `--smoke`, `--show`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from infra.settings import forbid_update_checks
from jobs.console import print_line
from jobs.recipes import Recipes
from jobs.recipes.kinds import EvaluateRecipe
from models import system_of
from pipelines.store.names import nearest
from pipelines.training.config import TrainingConfig

_INT_LIMIT, _FLOAT_LIMIT, _MAX_DEPTH = 2**63, 1e12, 16
_Config = TypeVar("_Config", bound=BaseModel)


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


def show_settings(config: BaseModel) -> None:
    """Print the settings: what `--show` asks for."""
    print_line("\n".join(describe_settings(config)))


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
