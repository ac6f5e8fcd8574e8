"""Fuse from Python, in this process: arrays or paths in, arrays out. For notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np

from infra.settings import Settings, read_settings
from jobs.fuse.run import bundle_of
from jobs.fuse.told import read_chains
from jobs.locations import source_reader
from models.system import FuseOptions
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import Fusing, PictureFuser, Pictures
from pipelines.sources.pictures import as_ir, as_vi, check_sizes, to_levels
from pipelines.sources.scenes import read_pair

# A path or an S3 URI, or levels: H×W×3 or H×W for the visible, H×W for the infrared one.
Picture = str | PathLike[str] | np.ndarray


class Model:
    """A loaded model: `model(vi, ir)` is the fused picture, H×W×3 RGB, uint8 (uint16 if a source is)."""

    def __init__(self, fusing: Fusing, settings: Settings, device: str) -> None:
        self._fusing, self._read = fusing, source_reader(settings)
        self._fuse = PictureFuser(fusing, device)

    def __call__(self, vi: Picture, ir: Picture) -> np.ndarray:
        """Fuse a pair. Raises ValueError for one that cannot be fused, as `batch` does."""
        return self.batch([(vi, ir)])[0]

    def batch(self, pairs: Sequence[tuple[Picture, Picture]]) -> list[np.ndarray]:
        """Fuse pairs, those of one size at once; the pictures in the pairs' order.

        Arrays are uint8 or uint16, RGB. Raises ValueError, naming the pair, for pictures of two sizes, of
        other levels, or that the model does not take.
        """
        pictures = [self._pictures(vi, ir, place) for place, (vi, ir) in enumerate(pairs)]
        hints = [self._fusing.hints(*pair) for pair in pictures]
        fused = []
        for place, result in enumerate(self._fuse(pictures, hints)):
            if isinstance(result, ValueError):
                raise ValueError(f"pair {place}: {result}") from result
            fused.append(to_levels(result, np.result_type(*pictures[place])))
        return fused

    def _pictures(self, vi: Picture, ir: Picture, place: int) -> Pictures:
        if not isinstance(vi, np.ndarray) and not isinstance(ir, np.ndarray):
            return read_pair(str(vi), str(ir), self._read)
        if not isinstance(vi, np.ndarray) or not isinstance(ir, np.ndarray):
            raise ValueError(f"pair {place}: give two arrays or two paths")
        for camera, levels in (("vi", vi), ("ir", ir)):
            if levels.dtype not in (np.uint8, np.uint16) or levels.ndim not in (2, 3):
                raise ValueError(
                    f"pair {place}: {camera} is {levels.dtype} of shape {levels.shape}; give uint8 or "
                    "uint16, H×W or H×W×3"
                )
        # As the codec returns them: BGR.
        found = as_vi(_squeezed(vi)), as_ir(_squeezed(ir), f"pair {place}")
        check_sizes(*found, f"pair {place}")
        return found


def _squeezed(levels: np.ndarray) -> np.ndarray:
    """H×W, or H×W×3 BGR."""
    return (
        levels
        if levels.ndim == 2
        else levels[:, :, 0]
        if levels.shape[2] == 1
        else levels[:, :, ::-1]
    )


def load_model(
    model: str,
    *,
    device: str = "auto",
    degradation: Sequence[str] = (),
    options: FuseOptions | None = None,
) -> Model:
    """Load weights of this repository ("small"), a registered version or a bundle's folder.

    `degradation` is what `jobs.fuse --degradation` takes. Raises ValueError for an unknown model.
    """
    settings = read_settings()
    bundle = read_bundle(bundle_of(model, settings))
    fusing = Fusing(bundle=bundle, options=options or FuseOptions(), **read_chains(degradation))
    fusing.hints()  # refuses a degradation that the model takes no hint for
    return Model(fusing, settings, device)
