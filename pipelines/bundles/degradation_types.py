"""What a model sees that a picture suffers: the type whose mean vector its encoder's vector is nearest to.

The vectors are those of a system's probe (DSPFusion: of its degradation encoder, spec 1.2). `types.json`
beside a bundle's weights holds their means over pictures that the model was trained on, and how far those
lie from them.

Legend: P pictures, D width of a vector, C types of a camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.system import System
from pipelines.probes.known_pictures import Picture
from pipelines.probes.latents import embed

TYPES = "types.json"
# Of a probe's vectors the one that is learnt from: the embedding of the contrastive loss.
TYPE_VECTOR = "type"
# Camera to type to share, the largest first.
Seen = Mapping[str, Mapping[str, float]]
_TEMPERATURES = np.geomspace(0.005, 1.0, 24)
# Of the training's pictures, the share that is within reach.
REACHED = 0.95
# Of pictures that are all alike; the means are rounded to so much.
_LEAST_REACH = 1e-6


@dataclass(frozen=True)
class Sight:
    """What a model sees of a pair; empty where it has no types.

    The distance is that of each camera's picture from the nearest type: beyond 1 it is farther than
    19 of 20 pictures of the training.
    """

    shares: Seen = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)


class DegradationTypes(BaseModel):
    """Mean vectors of length 1 by camera and type, and how sharply a cosine tells the types apart.

    The reach is the distance, 1 - cosine, from the nearest mean that `REACHED` of the training's pictures
    of a camera keep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    means: Mapping[str, Mapping[str, tuple[float, ...]]]
    reach: Mapping[str, Annotated[float, Field(gt=0)]]

    def __hash__(self) -> int:
        """Mappings have no hash, and a bundle is a key of what a worker loads once."""
        return hash((self.temperature, *sorted(self.reach.items())))

    def as_bytes(self) -> bytes:
        """The file's content."""
        return (self.model_dump_json() + "\n").encode()

    def shares(self, vector: np.ndarray, camera: str) -> dict[str, float]:
        """The share of each type of a camera for a vector D, largest first; they sum to 1.

        A softmax of the cosines with the types' means, over the temperature.
        """
        names = [*self.means[camera]]
        means = np.array([self.means[camera][name] for name in names])  # C D
        found = _softmax(_unit(vector[None]) @ means.T / self.temperature)[0]
        order = np.argsort(-found, kind="stable")
        return {names[place]: float(found[place]) for place in order}

    def distance(self, vector: np.ndarray, camera: str) -> float:
        """How far a vector D is from a camera's nearest mean, over the camera's reach."""
        means = np.array([*self.means[camera].values()])  # C D
        nearest = (_unit(vector[None]) @ means.T).max()
        return float((1 - nearest) / self.reach[camera])


def types_of_pictures(
    system: System, fuser: nn.Module, pictures: Iterable[Picture]
) -> DegradationTypes | None:
    """Types from what a fuser sees in pictures of its training; None for one that has no such vectors."""
    if system.probe is None:
        return None
    pictures = iter(pictures)
    first = [*islice(pictures, 1)]
    found = embed(system.probe, fuser, first)
    if found is None or TYPE_VECTOR not in found.vectors:
        return None
    found = embed(system.probe, fuser, chain(first, pictures))
    assert found is not None
    return learn_types(found.vectors[TYPE_VECTOR], found.cameras, found.conditions)


def learn_types(
    vectors: np.ndarray, cameras: Sequence[str], conditions: Sequence[str]
) -> DegradationTypes:
    """Types from the vectors P×D of pictures; a condition is camera_type, as the probes name it.

    The temperature is the one under which the pictures' own types are the likeliest.
    """
    units, labels = _unit(vectors.astype(np.float64)), np.array(conditions)
    means: dict[str, dict[str, tuple[float, ...]]] = {}
    reach: dict[str, float] = {}
    # Of each camera's pictures, and which of its types is right.
    cosines: list[tuple[np.ndarray, np.ndarray]] = []
    for camera in sorted(set(cameras)):
        mine = np.array(cameras) == camera
        names = np.unique(labels[mine])
        centroids = _unit(np.stack([units[labels == name].mean(axis=0) for name in names]))
        rounded = centroids.round(6).tolist()
        means[camera] = {
            str(name).removeprefix(f"{camera}_"): tuple(mean)
            for name, mean in zip(names, rounded, strict=True)
        }
        found = units[mine] @ centroids.T  # P C
        farther = float(np.quantile(1 - found.max(axis=1), REACHED))
        reach[camera] = max(round(farther, 6), _LEAST_REACH)
        cosines.append((found, np.searchsorted(names, labels[mine])))
    likelihoods = [
        sum(float(_log_likelihood(found / t, right)) for found, right in cosines)
        for t in _TEMPERATURES
    ]
    best = float(_TEMPERATURES[int(np.argmax(likelihoods))])
    return DegradationTypes(temperature=round(best, 6), means=means, reach=reach)


def _log_likelihood(logits: np.ndarray, right: np.ndarray) -> float:
    chosen = _softmax(logits)[np.arange(len(right)), right]
    return float(np.log(np.maximum(chosen, 1e-12)).sum())


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def in_words(seen: Seen) -> str:
    """The likeliest type of each camera, for people: "vi low_light (81%), ir clean (90%)"."""
    likeliest = [(camera, *next(iter(shares.items()))) for camera, shares in seen.items()]
    return ", ".join(f"{camera} {name} ({share:.0%})" for camera, name, share in likeliest)
