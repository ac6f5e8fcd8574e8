"""Degradation priors as vectors: do pictures that suffer the same lie together?

Legend: B batch, N prior tokens, C width, P pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from models.color import to_rgb
from models.dspfusion.fuser import DSPFusionFuser, pad_to_multiple
from models.dspfusion.priors import DegradationEncoder
from pipelines.datasets.groups import members_of
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.shards import open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.evaluation.scenarios import CLEAN_SCENARIO, Scenario, degrade
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import Read, Scene, load_pair, read_file
from pipelines.store.folders import Folder

# Fewer pictures make no map.
MIN_PICTURES = 8
_SCENES_OF_A_SHARD = 8


class Point(BaseModel):
    """One degraded picture on the map; `condition` is its camera and what it suffers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float
    y: float
    camera: str
    condition: str


@dataclass(frozen=True)
class Picture:
    """What one camera saw, uint8 H×W×C; `condition` is the camera and what it suffers."""

    scene: str
    camera: str
    condition: str
    image: np.ndarray


@dataclass(frozen=True)
class Embedded:
    """P pictures as vectors.

    `priors` P×C are the degradation priors, their tokens' mean: what guides the fusion. `types` P×C
    are the type vectors: what the contrastive loss compares (spec 1.2).
    """

    priors: np.ndarray
    types: np.ndarray
    scenes: tuple[str, ...]
    cameras: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def num_conditions(self) -> int:
        """Different conditions among the pictures."""
        return len(set(self.conditions))


def single_scenarios(config: ShardConfig) -> list[Scenario]:
    """Clean, and every degradation of a dataset by itself."""
    vi = [Scenario(name=f"vi_{name}", vi=(name,)) for name in config.vi]
    return [CLEAN_SCENARIO, *vi, *(Scenario(name=f"ir_{name}", ir=(name,)) for name in config.ir)]


def degraded_pictures(
    scenes: Iterable[Scene], scenarios: Sequence[Scenario], *, seed: int, read: Read = read_file
) -> Iterator[Picture]:
    """Degrade each scene in every scenario; a camera that a scenario leaves clean counts once."""
    for scene in scenes:
        vi, ir = load_pair(scene, read)
        for scenario in scenarios:
            vi_lq, ir_lq = degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)
            for camera, names, image in (("ir", scenario.ir, ir_lq), ("vi", scenario.vi, vi_lq)):
                if names or not (scenario.vi or scenario.ir):
                    condition = f"{camera}_{'+'.join(names) or 'clean'}"
                    yield Picture(scene.id, camera, condition, image)


def stored_pictures(version: DatasetVersion, root: Folder) -> Iterator[Picture]:
    """All variants of a few scenes of a dataset's first shard."""
    with closing(open_shard(root, version.shards[0])) as reader:
        for scene in sorted(reader.metas)[:_SCENES_OF_A_SHARD]:
            for member in members_of(version.config.shard):
                yield Picture(scene, member[:2], member, reader.image(scene, member))


def embed(fuser: DSPFusionFuser, pictures: Iterable[Picture]) -> Embedded:
    """Embed pictures one by one. Raises ValueError for a model without degradation prior."""
    encoder = fuser.degradation
    if not isinstance(encoder, DegradationEncoder):
        raise ValueError("this model has no degradation prior to embed pictures by")
    priors, types, seen = [], [], []
    with torch.inference_mode():
        for picture in pictures:
            image = pad_to_multiple(to_tensor(picture.image))  # 1 C H W, 3 or 1 channels
            image = to_rgb(image) if picture.camera == "ir" else image
            prior = encoder(image.to(next(encoder.parameters()).device))  # 1 N C
            priors.append(prior.mean(dim=1)[0].cpu().numpy())
            types.append(encoder.type_vector(prior)[0].cpu().numpy())
            seen.append((picture.scene, picture.camera, picture.condition))
    if not seen:
        raise ValueError("no pictures to embed")
    return Embedded(np.stack(priors), np.stack(types), *zip(*seen, strict=True))


def map_points(embedded: Embedded, *, seed: int) -> list[Point]:
    """t-SNE of the priors; empty when there are fewer than MIN_PICTURES."""
    if len(embedded.priors) < MIN_PICTURES:
        return []
    return [
        Point(x=float(x), y=float(y), camera=camera, condition=condition)
        for (x, y), camera, condition in zip(
            _flatten(embedded.priors, seed), embedded.cameras, embedded.conditions, strict=True
        )
    ]


def tell_apart(embedded: Embedded) -> dict[str, float]:
    """How well the conditions are told apart, by `centroid_accuracy`, and what chance would give."""
    return {
        "prior_accuracy": centroid_accuracy(embedded.priors, embedded.conditions, embedded.scenes),
        "type_accuracy": centroid_accuracy(embedded.types, embedded.conditions, embedded.scenes),
        "accuracy_of_chance": 1 / embedded.num_conditions,
    }


def in_words(apart: Mapping[str, float]) -> dict[str, str]:
    """What `tell_apart` found, for a page; nothing where it found nothing."""
    if not apart:
        return {}
    prior, by_type, chance = (f"{100 * value:.0f} %" for value in apart.values())
    words = f"{prior} by prior, {by_type} by type vector; by chance {chance}"
    return {"degradations told apart": words}


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


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _flatten(vectors: np.ndarray, seed: int) -> np.ndarray:
    """P×C to P×2. A third of the pictures is the largest perplexity that t-SNE takes sensibly."""
    # Not above: a training without Ray and MLflow has no scikit-learn either, which comes with MLflow.
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
