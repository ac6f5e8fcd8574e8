"""A system's probe on pictures: do the vectors of those that suffer the same lie together?

Legend: P pictures, N of them learned from, T tried, D width of a vector, K conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from models.system import Probe
from pipelines.probes.known_pictures import Picture
from pipelines.sources.pictures import to_tensor

# Fewer pictures make no map.
MIN_PICTURES = 8
# Of a number's variance: vectors may be wider than there are pictures.
_RIDGE = 0.01


class Point(BaseModel):
    """One degraded picture on the map; `condition` is its camera and what it suffers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float
    y: float
    camera: str
    condition: str


@dataclass(frozen=True)
class Embedded:
    """P pictures as vectors, P×D by the probe's names; the first are what a map is drawn of."""

    vectors: Mapping[str, np.ndarray]
    scenes: tuple[str, ...]
    cameras: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def num_conditions(self) -> int:
        """Different conditions among the pictures."""
        return len(set(self.conditions))


def embed(probe: Probe, fuser: nn.Module, pictures: Iterable[Picture]) -> Embedded | None:
    """Embed pictures one by one; None for a model that the probe finds nothing in."""
    device = next(fuser.parameters()).device
    rows, seen = [], []
    with torch.inference_mode():
        for picture in pictures:
            image = to_tensor(picture.image).to(device)  # 1 C H W, 3 or 1 channels
            suffers = picture.condition.removeprefix(f"{picture.camera}_")
            found = probe.embed(fuser, image, picture.camera, suffers)  # 1 D each
            if found is None:
                return None
            rows.append({name: vector[0].cpu().numpy() for name, vector in found.items()})
            seen.append((picture.scene, picture.camera, picture.condition))
    if not seen:
        raise ValueError("no pictures to embed")
    vectors = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Embedded(vectors, *zip(*seen, strict=True))


def map_points(embedded: Embedded, *, seed: int) -> list[Point]:
    """t-SNE of the first vectors; empty when there are fewer than MIN_PICTURES."""
    first = next(iter(embedded.vectors.values()))
    if len(first) < MIN_PICTURES:
        return []
    return [
        Point(x=float(x), y=float(y), camera=camera, condition=condition)
        for (x, y), camera, condition in zip(
            _flatten(first, seed), embedded.cameras, embedded.conditions, strict=True
        )
    ]


def tell_apart(embedded: Embedded) -> dict[str, float]:
    """How well the conditions are told apart, by `centroid_accuracy`, and what chance would give.

    Beside it `linear_accuracy` of the first vectors, and what chance would give there.
    """
    accuracies = {
        f"{name}_accuracy": centroid_accuracy(vectors, embedded.conditions, embedded.scenes)
        for name, vectors in embedded.vectors.items()
    }
    linear, chance = linear_accuracy(embedded, next(iter(embedded.vectors.values())))
    return accuracies | {
        "accuracy_of_chance": 1 / embedded.num_conditions,
        "linear_probe": linear,
        "linear_probe_of_chance": chance,
    }


def in_words(apart: Mapping[str, float]) -> dict[str, str]:
    """What `tell_apart` found, for a page; nothing where it found nothing."""
    if not apart:
        return {}
    shares = [
        f"{100 * value:.0f} % by {name.removesuffix('_accuracy')}"
        for name, value in apart.items()
        if name.endswith("_accuracy")
    ]
    words = f"{', '.join(shares)}; by chance {100 * apart['accuracy_of_chance']:.0f} %"
    linear, chance = (100 * apart[name] for name in ("linear_probe", "linear_probe_of_chance"))
    return {
        "degradations told apart": words,
        "by a linear probe within a camera": f"{linear:.0f} %; by chance {chance:.0f} %",
    }


def centroid_accuracy(
    vectors: np.ndarray, conditions: Sequence[str], scenes: Sequence[str]
) -> float:
    """Share of pictures whose condition is that of the nearest centroid, by cosine.

    The centroids of vectors P×C come from every other scene in order of name, the pictures from the
    rest: no scene is on both sides. Raises ValueError when a condition is missing on one.
    """
    half = set(sorted(set(scenes))[::2])
    known = np.array([scene in half for scene in scenes])
    labels = np.array(conditions)
    names = np.unique(labels)
    missing = [name for name in names if len(set(known[labels == name])) < 2]
    if missing:
        raise ValueError(
            f"condition {str(missing[0])!r} needs scenes in both halves, to learn from and to be tried "
            "on; give more scenes"
        )
    units = _unit(vectors.astype(np.float64))
    centroids = _unit(np.stack([units[known & (labels == name)].mean(axis=0) for name in names]))
    nearest = names[(units[~known] @ centroids.T).argmax(axis=1)]
    return float((nearest == labels[~known]).mean())


def linear_accuracy(embedded: Embedded, vectors: np.ndarray) -> tuple[float, float]:
    """Share of pictures whose condition a linear probe of vectors P×D tells, and that of chance.

    Ridge regression to the conditions of a camera, learned from every other scene in order of name and
    tried on the rest: what a latent space still says of the degradation (LURE spec 7, ii).
    """
    half = set(sorted(set(embedded.scenes))[::2])
    known = np.array([scene in half for scene in embedded.scenes])
    cameras, conditions = np.array(embedded.cameras), np.array(embedded.conditions)
    told, chances = [], []
    for camera in np.unique(cameras):
        learned, tried = known & (cameras == camera), ~known & (cameras == camera)
        names, places = np.unique(conditions[learned], return_inverse=True)
        found = _ridge(vectors[learned], np.eye(len(names))[places], vectors[tried])
        told += [*(names[found.argmax(axis=1)] == conditions[tried])]
        chances += [1 / len(names)] * int(tried.sum())
    return float(np.mean(told)), float(np.mean(chances))


def _ridge(x: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Predict for `tried` T×D what ridge regression learns of x N×D and y N×K; each number standardised."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-8
    x, tried = ((each - mean) / std for each in (x.astype(np.float64), tried))
    gram = x.T @ x + len(x) * _RIDGE * np.eye(x.shape[1])
    weights: np.ndarray = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)))
    return tried @ weights + y.mean(axis=0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _flatten(vectors: np.ndarray, seed: int) -> np.ndarray:
    """P×C to P×2. A third of the pictures is the largest perplexity that t-SNE takes sensibly."""
    # Not above: a training without Ray and MLflow has no scikit-learn either, which comes with MLflow.
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
