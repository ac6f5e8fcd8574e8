"""Degradations of a recipe's own: albumentations transforms in serialised form, named beside the catalogue.

    OwnTransforms(vi={"motion_blur": A.to_dict(A.MotionBlur(blur_limit=(7, 15), p=1))})

albumentations itself is imported where a recipe has such a degradation, and nowhere else: it takes
seconds.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from degradations.catalogue import CLEAN, Modality, find, is_known


def _as_json(serialised: Any) -> Any:
    """The same after a journey: `A.to_dict` has tuples, which JSON reads back as lists."""
    try:
        return json.loads(json.dumps(serialised, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a transform is written as A.to_dict(transform) ({error})") from error


Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Serialised = Annotated[dict[str, Any], BeforeValidator(_as_json)]


class OwnTransforms(BaseModel):
    """Serialised albumentations transforms by name, of each camera; each is tried when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    vi: dict[Name, Serialised] = {}
    """Of the visible camera: name and `A.to_dict(transform)`."""
    ir: dict[Name, Serialised] = {}
    """Of the infrared camera."""

    @model_validator(mode="after")
    def _named_and_tried(self) -> Self:
        for camera, name, serialised in self._items():
            if name in (CLEAN, "gt") or is_known("vi", name) or is_known("ir", name):
                raise ValueError(f"own.{camera}: {name!r} is taken; choose another name")
            from degradations.transforms import try_serialised

            try:
                try_serialised(serialised, camera)
            except ValueError as error:
                raise ValueError(f"own.{camera}, {name}: {error}") from error
        return self

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.vi or self.ir)

    def of(self, camera: Modality) -> Mapping[str, Serialised]:
        """Those of one camera, by name."""
        return self.vi if camera == "vi" else self.ir

    def address(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What decides the pixels of each, by camera and name: the transform, and what code it runs."""
        addresses: dict[str, dict[str, dict[str, Any]]] = {"vi": {}, "ir": {}}
        for camera, name, serialised in self._items():
            kernels = {
                f"{of}_{kernel}": find(of, kernel).version for of, kernel in _kernels_in(serialised)
            }
            addresses[camera][name] = {
                "transform": serialised,
                "albumentations": version("albumentations"),
                "kernels": kernels,
            }
        return addresses

    def _items(self) -> Iterator[tuple[Modality, str, Serialised]]:
        for name, serialised in self.vi.items():
            yield "vi", name, serialised
        for name, serialised in self.ir.items():
            yield "ir", name, serialised


def parts_of(name: str) -> tuple[str, ...]:
    """The degradations of a picture in order: "gaussian_blur+gaussian_noise" is two, "clean" none."""
    return () if name == CLEAN else tuple(name.split("+"))


def check_names(camera: Modality, names: Collection[str], own: OwnTransforms) -> None:
    """Raise ValueError, listing the known ones, for a name that neither catalogue nor `own` has."""
    for name in names:
        for part in parts_of(name):
            if part not in own.of(camera):
                find(camera, part)


def _kernels_in(node: Any) -> Iterator[tuple[Modality, str]]:
    """The kernels of the catalogue that a serialised transform is made of (`transforms.Degrade`)."""
    if isinstance(node, list):
        for item in node:
            yield from _kernels_in(item)
    elif isinstance(node, dict):
        if node.get("__class_fullname__", "").endswith("transforms.Degrade"):
            yield node["modality"], node["name"]
        yield from _kernels_in(list(node.values()))
