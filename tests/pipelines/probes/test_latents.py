import numpy as np
import pytest
import torch

from models.dspfusion import SYSTEM
from models.dspfusion.config import tiny
from models.dspfusion.fuser import DSPFusionFuser
from pipelines.datasets.versions import DatasetVersion
from pipelines.probes.known_pictures import Picture, degraded_pictures, single_scenarios
from pipelines.probes.latents import (
    Embedded,
    centroid_accuracy,
    embed,
    in_words,
    linear_accuracy,
    map_points,
    tell_apart,
)
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import tiny_fuser
from tests.pipelines.probes.test_known_pictures import CONDITIONS

PROBE = SYSTEM.probe
assert PROBE is not None
Published = tuple[DatasetVersion, LocalFolder]


def test_accuracy_of_known_vectors() -> None:
    """Scenes a and c give the centroids, b and d are tried: three of their four are right."""
    east, north = [1.0, 0.1], [0.1, 1.0]
    vectors = np.array([east, north, [5.0, 0.2], north, east, north, north, [0.0, 9.0]])
    conditions = ["blur", "rain"] * 4
    scenes = ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert centroid_accuracy(vectors, conditions, scenes) == 0.75
    # By cosine: a vector's length says nothing.
    lengths = np.array([[3.0], [0.5], [7.0], [1.0], [2.0], [9.0], [4.0], [0.1]])
    assert centroid_accuracy(vectors * lengths, conditions, scenes) == 0.75
    # The order of the pictures says nothing, either.
    order = np.array([3, 1, 7, 5, 0, 2, 6, 4])
    shuffled = [[values[i] for i in order] for values in (conditions, scenes)]
    assert centroid_accuracy(vectors[order], *shuffled) == 0.75


def test_vectors_that_say_nothing_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    conditions = [f"c{i % 4}" for i in range(4000)]
    scenes = [f"s{i // 4:04}" for i in range(4000)]
    found = centroid_accuracy(rng.standard_normal((4000, 8)), conditions, scenes)
    assert found == pytest.approx(0.25, abs=0.05)


def test_a_linear_probe_tells_what_is_told_within_a_camera() -> None:
    """The condition is a small difference on top of what all pictures share; a camera has its own."""
    rng = np.random.default_rng(0)
    number, camera = rng.integers(0, 3, 600), rng.integers(0, 2, 600)
    vectors = rng.standard_normal((600, 6))
    vectors[:, 0] += 100
    names = [("ir", "vi")[c] for c in camera]
    conditions = [f"{name}_{n}" for name, n in zip(names, number, strict=True)]
    scenes = [f"s{i}" for i in range(600)]
    blind = Embedded({"v": vectors}, tuple(scenes), tuple(names), tuple(conditions))
    assert linear_accuracy(blind, vectors) == (pytest.approx(1 / 3, abs=0.08), pytest.approx(1 / 3))
    seeing = vectors.copy()
    seeing[np.arange(600), 1 + number] += 4 * (2 * camera - 1)
    assert linear_accuracy(blind, seeing)[0] > 0.9


def test_a_condition_of_one_half_is_refused() -> None:
    with pytest.raises(ValueError, match="'rain' needs scenes in both halves"):
        centroid_accuracy(np.eye(3), ["blur", "blur", "rain"], ["a", "b", "c"])


def test_embeddings_become_a_map_and_an_accuracy(
    scenes: list[Scene], version_root: Published
) -> None:
    scenarios = single_scenarios(version_root[0].config.shard)
    fuser = tiny_fuser()
    embedded = embed(PROBE, fuser, degraded_pictures(scenes[:4], scenarios, seed=0))
    width = tiny().degradation_prior_width
    shapes = {name: vectors.shape for name, vectors in embedded.vectors.items()}
    assert shapes == dict.fromkeys(("prior", "type"), (4 * len(CONDITIONS), width))
    assert embedded.num_conditions == len(CONDITIONS)
    points = map_points(embedded, seed=0)
    assert {(point.camera, point.condition) for point in points} == {
        (condition[:2], condition) for condition in CONDITIONS
    }
    found = tell_apart(embedded)
    assert found["accuracy_of_chance"] == 1 / 8
    assert all(0 <= value <= 1 for value in found.values())
    assert found["linear_probe_of_chance"] == 1 / 4
    words = in_words(
        {"prior_accuracy": 0.5, "type_accuracy": 0.62, "accuracy_of_chance": 0.125}
        | {"linear_probe": 0.7, "linear_probe_of_chance": 0.25}
    )
    assert words == {
        "degradations told apart": "50 % by prior, 62 % by type; by chance 12 %",
        "by a linear probe within a camera": "70 %; by chance 25 %",
    }
    assert in_words({}) == {}
    few = embed(PROBE, fuser, degraded_pictures(scenes[:1], scenarios[:2], seed=0))
    assert map_points(few, seed=0) == []


def test_an_encoder_that_sees_the_degradation_tells_it_apart(
    scenes: list[Scene], version_root: Published
) -> None:
    """Trained for a moment to say how bright a picture is, it knows low light from the rest."""
    scenarios = [s for s in single_scenarios(version_root[0].config.shard) if "low" in s.name]
    pictures = list(degraded_pictures(scenes, scenarios, seed=0))
    torch.manual_seed(0)
    fuser = DSPFusionFuser(tiny())
    images = torch.stack(
        [torch.from_numpy(p.image[..., :1].copy()).expand(-1, -1, 3) for p in pictures]
    )
    images = images.permute(0, 3, 1, 2).float() / 255
    wanted = torch.tensor([p.camera == "vi" for p in pictures]).float()
    optimizer = torch.optim.AdamW(fuser.degradation.parameters(), lr=1e-2)
    for _ in range(60):
        prior = fuser.degradation(images).mean(dim=1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            prior[:, 0] - prior[:, 1], wanted
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert tell_apart(embed(PROBE, fuser.eval(), pictures))["prior_accuracy"] > 0.9


def test_a_model_without_degradation_prior_has_no_map() -> None:
    fuser = DSPFusionFuser(tiny().model_copy(update={"degradation_prior": False}))
    picture = Picture("a", "vi", "vi_clean", np.zeros((16, 16, 3), np.uint8))
    assert embed(PROBE, fuser, [picture]) is None
    with pytest.raises(ValueError, match="no pictures"):
        embed(PROBE, tiny_fuser(), [])
