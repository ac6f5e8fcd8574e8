"""Recipes: functions that return a complete configuration.

A recipe is a public function without arguments in a module of this folder, whose return annotation
says what it configures. They are found by reading the source: a system's recipes are there as long as
their file is, and listing them imports nothing. An underscore at a name's end keeps Python's own words
free, and is no part of the recipe's name. Recipes of your own need no entry here: commands take
`MODULE:FUNCTION`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

if TYPE_CHECKING:
    from jobs.recipes.kinds import EvaluateRecipe, PretrainRecipe, PromoteRecipe
    from pipelines.datasets.plan import DatasetConfig
    from pipelines.training.config import TrainingConfig

_FOLDER = Path(__file__).parent
_Config = TypeVar("_Config")


class _Found(NamedTuple):
    module: str
    function: str
    summary: str


class Recipes(Mapping[str, Callable[[], _Config]]):
    """The recipes here that return one of `types` ("module:class"), by name; imported when taken.

    With `by_module` a name begins with its module's: `dspfusion_stage1_small`.
    """

    def __init__(self, *types: str, by_module: bool = False) -> None:
        self.types, self._by_module = types, by_module

    def __getitem__(self, name: str) -> Callable[[], _Config]:
        module, function, _ = self._found[name]
        recipe: Callable[[], _Config] = getattr(
            importlib.import_module(f"{__name__}.{module}"), function
        )
        return recipe

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def summaries(self) -> dict[str, str]:
        """The first line of each recipe's docstring."""
        return {name: found.summary for name, found in self._found.items()}

    def accepts(self, config: Any) -> bool:
        """Whether a configuration is of one of the types."""
        return f"{type(config).__module__}:{type(config).__qualname__}" in self.types

    @cached_property
    def _found(self) -> dict[str, _Found]:
        classes = {each.partition(":")[2] for each in self.types}
        found: dict[str, _Found] = {}
        for path in sorted(_FOLDER.glob("[!_]*.py")):
            for node in ast.parse(path.read_text()).body:
                if _is_recipe(node, classes):
                    name = node.name.removesuffix("_")
                    name = f"{path.stem}_{name}" if self._by_module else name
                    assert name not in found, f"two recipes are called {name}"
                    summary = (ast.get_docstring(node) or "").partition("\n")[0]
                    found[name] = _Found(path.stem, node.name, summary)
        return found


def _is_recipe(node: ast.stmt, classes: set[str]) -> TypeGuard[ast.FunctionDef]:
    return (
        isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not ast.unparse(node.args)
        and node.returns is not None
        and ast.unparse(node.returns) in classes
    )


DATASETS: Recipes[DatasetConfig] = Recipes("pipelines.datasets.plan:DatasetConfig")
TRAINING: Recipes[TrainingConfig] = Recipes(
    "pipelines.training.config:TrainingConfig", by_module=True
)
EVALUATION: Recipes[EvaluateRecipe] = Recipes("jobs.recipes.kinds:EvaluateRecipe")
PROMOTION: Recipes[PromoteRecipe] = Recipes("jobs.recipes.kinds:PromoteRecipe")
PRETRAINING: Recipes[PretrainRecipe] = Recipes("jobs.recipes.kinds:PretrainRecipe")
