"""The kernels as albumentations transforms, to be composed with its own; and its own as degradations.

The only file that imports albumentations (2.0.8, MIT, no longer maintained; its successor is AGPL).

Convention: H×W×C or H×W, uint8 or float32 in [0, 1]; C = 3 for VI and 1 for IR.  A uint8 picture
comes back as uint8, rounded as in a shard.  Legend: H W pixels, C channels.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import albumentations as A
import numpy as np

from degradations.catalogue import Modality, find
from degradations.chain import CHANNELS, Applied, apply_chain

# Longer arrays and lists are noise fields and the like: the seed makes them again, a record need not.
_LONGEST_DRAW = 512
_TRIED_PX = 64


class Degrade(A.ImageOnlyTransform):
    """One degradation of the catalogue: `Degrade("vi", "blur", {"sigma_range_px": (1, 2)})`.

    `ranges` replaces single defaults of the catalogue.  With `additional_targets` every picture
    gets the same draw; `only` names the one picture that is touched, so that a pair needs one
    `A.Compose`: `Degrade("vi", "rain", only="image")`, `Degrade("ir", "stripe_noise", only="ir")`.
    The draw is recorded: `transform.get_applied_params()["applied"]`.
    """

    def __init__(
        self,
        modality: Modality,
        name: str,
        ranges: Mapping[str, Any] | None = None,
        only: str | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        degradation = find(modality, name)
        self._draw = degradation.draw
        self._ranges = type(degradation.ranges).model_validate(dict(ranges or {}))
        self.modality, self.name, self.only = modality, name, only
        # Kept as plain JSON values: A.to_dict writes the attributes named like the arguments.
        self.ranges = self._ranges.model_dump(mode="json", include=set(ranges or {}))

    def get_params(self) -> dict[str, Any]:
        """Draw from the generator that `A.Compose(seed=...)` hands to every transform."""
        params = self._draw(self._ranges, self.random_generator)
        return {"applied": Applied(name=self.name, params=params.model_dump())}

    def apply(self, img: np.ndarray, *args: Any, applied: Applied, **params: Any) -> np.ndarray:
        """Apply the drawn parameters to one picture."""
        image = img[..., None] if img.ndim == 2 else img  # H W C
        return apply_chain(image, self.modality, [applied]).reshape(img.shape)

    def apply_with_params(
        self, params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Apply to every picture, or to the one that `only` names."""
        if self.only is None:
            return super().apply_with_params(params, **kwargs)
        if self.only not in kwargs:
            given = ", ".join(kwargs)
            raise ValueError(
                f"only={self.only!r} names no target of this call; its targets: {given}"
            )
        return {**kwargs, **super().apply_with_params(params, **{self.only: kwargs[self.only]})}


def apply_serialised(
    serialised: Mapping[str, Any], image: np.ndarray, seed: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Apply `A.to_dict(…)` to H×W×C float32 in [0, 1], with all its random numbers from `seed`.

    Returns the picture and, of each transform that was applied, its name and what it drew, as JSON.
    Raises ValueError for a result of another shape or type, or that is not finite.
    """
    compose = A.Compose([A.from_dict(serialised)], seed=seed, save_applied_params=True)
    done = compose(image=image)
    changed = done["image"]
    if changed.size != image.size or changed.dtype != np.float32 or not np.isfinite(changed).all():
        raise ValueError(
            f"it makes {changed.dtype} {changed.shape} of {image.dtype} {image.shape}, or numbers that "
            "are not finite; a degradation keeps size and channels"
        )
    drawn = [
        {"name": name, "params": _plain(params)} for name, params in done["applied_transforms"]
    ]
    return np.clip(changed.reshape(image.shape), 0, 1), drawn


def try_serialised(serialised: Mapping[str, Any], modality: Modality) -> None:
    """Raise ValueError unless this is a transform that degrades pictures of the camera.

    It must not move pixels, for the pair would no longer be registered, nor leave out some pictures.
    """
    transform = _read(serialised)
    for step in _steps_of(transform):
        if not isinstance(step, A.ImageOnlyTransform):
            raise ValueError(
                f"{type(step).__name__} moves pixels, and the pair would no longer be registered; "
                "name transforms that change their values alone"
            )
    if transform.p != 1:
        raise ValueError(
            f"p={transform.p:g} would leave some of the pictures as they are; write p=1"
        )
    shape = (_TRIED_PX, _TRIED_PX, CHANNELS[modality])
    picture = np.random.default_rng(0).random(shape, dtype=np.float32)
    try:
        apply_serialised(serialised, picture, seed=0)
    except Exception as error:  # whatever a transform says of a picture that it does not take
        words = " ".join(str(error).split())
        raise ValueError(f"tried on a picture of {shape}: {words}") from error


def _read(serialised: Mapping[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # so it says an argument it does not know
            return A.from_dict(serialised)
    except KeyError as error:
        raise ValueError(
            f"{error} is missing, or no transform of albumentations {A.__version__}; write "
            "A.to_dict(transform)"
        ) from error
    except (TypeError, UserWarning) as error:
        raise ValueError(f"albumentations {A.__version__} refuses it: {error}") from error


def _steps_of(transform: Any) -> Iterator[Any]:
    """The transforms that a composition is made of, of any depth; of a single one, itself."""
    if not isinstance(transform, A.BaseCompose):
        yield transform
        return
    for step in transform.transforms:
        yield from _steps_of(step)


def _plain(value: Any) -> Any:
    """What a transform drew, as JSON; `shape` is the picture's and was not drawn."""
    match value:
        case Applied():
            return value.model_dump()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items() if key != "shape"}
        case np.ndarray() | np.generic() if value.size <= _LONGEST_DRAW:
            return _plain(value.tolist())
        case np.ndarray():
            return f"{value.dtype} {value.shape}, from the seed"
        case list() | tuple() if len(value) <= _LONGEST_DRAW:
            return [_plain(item) for item in value]
        case list() | tuple():
            return f"{len(value)} items, from the seed"
        case None | bool() | int() | float() | str():
            return value
    return str(value)
