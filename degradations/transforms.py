"""The kernels as albumentations transforms, to be composed with its own.

The only file that imports albumentations (2.0.8, MIT, no longer maintained; its successor is AGPL).

Convention: H×W×C or H×W, uint8 or float32 in [0, 1]; C = 3 for VI and 1 for IR.  A uint8 picture
comes back as uint8, rounded as in a shard.  Legend: H W pixels, C channels.
"""

from collections.abc import Mapping
from typing import Any

import albumentations as A
import numpy as np

from degradations.catalogue import Modality, find
from degradations.chain import Applied, apply_chain


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
        if image.dtype != np.uint8:
            return apply_chain(image, self.modality, [applied]).reshape(img.shape)
        changed = apply_chain(image / np.float32(255), self.modality, [applied])
        return np.rint(changed * np.float32(255)).astype(np.uint8).reshape(img.shape)

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
