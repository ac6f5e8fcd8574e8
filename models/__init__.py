"""The systems, by the type of their configs: objectives to train and fusers to use.

A system is a folder here and its line of import below; what it declares is in `models.system`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

# One line a system: what is imported here is what there is.
from models.drfusion import SYSTEM as DRFUSION  # noqa: F401
from models.dspfusion import SYSTEM as DSPFUSION  # noqa: F401
from models.lure import SYSTEM as LURE  # noqa: F401
from models.system import System

SYSTEMS = tuple(each for each in tuple(globals().values()) if isinstance(each, System))


def find_system(name: str) -> System:
    """The system of that name. Raises ValueError that lists the others."""
    for system in SYSTEMS:
        if system.name == name:
            return system
    known = ", ".join(system.name for system in SYSTEMS) or "none"
    raise ValueError(f"no system {name!r}; there are: {known}")


def system_of(config: BaseModel) -> System:
    """The system that a stage's or a fuser's config belongs to."""
    for system in SYSTEMS:
        types = (system.fuser_config, *(stage.config for stage in system.stages))
        if isinstance(config, types):
            return system
    raise ValueError(f"{type(config).__name__} is the config of no system")


def read_stage_config(value: Any) -> BaseModel:
    """A stage's config from what JSON holds of it, by `system` and `stage`. Raises ValueError."""
    if isinstance(value, BaseModel):
        return value
    system, stage = (_text_of(value, key) for key in ("system", "stage"))
    return find_system(system).stage(stage).config.model_validate(value)


def read_fuser_config(value: Any) -> BaseModel:
    """A fuser's config from what JSON holds of it, by `system`. Raises ValueError."""
    if isinstance(value, BaseModel):
        return value
    return find_system(_text_of(value, "system")).fuser_config.model_validate(value)


def _text_of(value: Any, key: str) -> str:
    text = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"it does not name its {key}")
    return text
