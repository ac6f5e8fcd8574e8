"""A map of the degradation priors: do pictures that suffer the same lie together?

Legend: B batch, N prior tokens, C width, P pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from sklearn.manifold import TSNE

from models.color import to_rgb
from models.dspfusion.fuser import DSPFusionFuser, pad_to_multiple
from pipelines.images import to_tensor
from pipelines.scenarios import Scenario, degrade
from pipelines.scenes import Scene, load_pair

# Fewer pictures make no map.
MIN_PICTURES = 8


class Point(BaseModel):
    """One degraded picture on the map; `condition` is its camera and what it suffers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float
    y: float
    camera: str
    condition: str


def map_priors(
    fuser: DSPFusionFuser, scenes: Sequence[Scene], scenarios: Sequence[Scenario], *, seed: int
) -> list[Point]:
    """t-SNE of the degradation prior of every single-camera picture, its tokens' mean.

    Empty when there are fewer than MIN_PICTURES.
    """
    vectors, conditions = [], []
    for scene in scenes:
        vi, ir = load_pair(scene)
        for scenario in scenarios:
            pair = degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)
            priors = _priors(fuser, *pair)  # 2 C, infrared first
            for camera, names, prior in zip(
                ("ir", "vi"), (scenario.ir, scenario.vi), priors, strict=True
            ):
                if names or not (scenario.vi or scenario.ir):
                    vectors.append(prior)
                    conditions.append((camera, f"{camera}_{'+'.join(names) or 'clean'}"))
    if len(vectors) < MIN_PICTURES:
        return []
    places = _flatten(np.stack(vectors), seed)
    return [
        Point(x=float(x), y=float(y), camera=camera, condition=condition)
        for (x, y), (camera, condition) in zip(places, conditions, strict=True)
    ]


def _priors(fuser: DSPFusionFuser, vi: np.ndarray, ir: np.ndarray) -> np.ndarray:
    pictures = [to_rgb(pad_to_multiple(to_tensor(ir))), pad_to_multiple(to_tensor(vi))]
    with torch.inference_mode():
        return fuser.degradation(torch.cat(pictures)).mean(dim=1).numpy()


def _flatten(vectors: np.ndarray, seed: int) -> np.ndarray:
    """P×C to P×2. A third of the pictures is the largest perplexity that t-SNE takes sensibly."""
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
