"""Mean vectors of degradation types: the nearest is found, with a share that tells how sure it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from models import SYSTEMS
from pipelines.bundles.degradation_types import (
    TYPES,
    Sight,
    in_words,
    learn_types,
    types_of_pictures,
)
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import Fusing, PictureFuser
from pipelines.bundles.pretrained import find_pretrained, write_types
from pipelines.datasets.groups import members_of
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.probes.known_pictures import stored_pictures
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, scan
from pipelines.sources.scenes import read_file
from pipelines.store.folders import LocalFolder
from pipelines.synthetic.pairs import render_scene, write_scenes
from tests.conftest import needs_small


def clusters(spread: float) -> tuple[np.ndarray, list[str], list[str]]:
    """Pictures of three types, two of one camera, about three axes."""
    rng = np.random.default_rng(0)
    conditions = ["vi_clean", "vi_haze", "ir_clean"] * 40
    axes = {"vi_clean": 0, "vi_haze": 1, "ir_clean": 2}
    vectors = np.stack([np.eye(4)[axes[name]] for name in conditions])
    vectors += spread * rng.standard_normal(vectors.shape)
    return 7 * vectors, [name[:2] for name in conditions], conditions


def test_the_nearest_type_is_the_likeliest() -> None:
    types = learn_types(*clusters(0.05))
    shares = types.shares(np.array([0.1, 2.0, 0.0, 0.0]), "vi")
    assert [*shares] == ["haze", "clean"]
    assert sum(shares.values()) == pytest.approx(1)
    assert types.shares(np.array([1.0, 0, 0, 0]), "ir") == {"clean": 1}
    assert in_words({"vi": {"haze": 0.814, "clean": 0.186}}) == "vi haze (81%)"


def test_types_that_lie_apart_are_told_more_surely() -> None:
    apart, mixed = (learn_types(*clusters(spread)) for spread in (0.05, 0.4))
    between = np.array([0.5, 0.6, 0.0, 0.0])
    assert apart.shares(between, "vi")["haze"] > mixed.shares(between, "vi")["haze"] > 0.5


def test_one_picture_in_twenty_of_the_training_is_out_of_reach() -> None:
    vectors, cameras, conditions = clusters(0.2)
    types = learn_types(vectors, cameras, conditions)
    distances = [types.distance(*picture) for picture in zip(vectors, cameras, strict=True)]
    assert np.mean(np.array(distances) > 1) == pytest.approx(0.05, abs=0.01)
    # Neither haze nor clean, but as long: the fourth axis is none's.
    assert types.distance(np.array([0.0, 0, 0, 7]), "vi") > 3
    assert types.distance(np.array([0.0, 7, 0, 0]), "vi") < 0.5


@needs_small
def test_what_is_learnt_of_scenes_is_seen_in_another(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pairs", split_counts={"train": 3}, seed=1, height=96, width=96)
    scenes = scan(tmp_path / "pairs", dataset="a", rules=ScanRules(layout=Layout())).scenes
    folder = tmp_path / "small"
    shutil.copytree(find_pretrained("small"), folder)
    shipped = read_bundle(folder).types
    assert shipped is not None
    # A worker keeps what it loaded of a bundle under the bundle.
    assert len({read_bundle(folder), read_bundle(folder)}) == 1
    shard = ShardConfig(vi=("low_light",), ir=("random_noise",), num_negatives=3)
    write_types(folder, scenes, shard, read_file)
    found = read_bundle(folder).types
    assert found is not None
    assert {camera: {*means} for camera, means in found.means.items()} == {
        "vi": {"clean", "low_light"},
        "ir": {"clean", "random_noise"},
    }
    vi, ir = render_scene(77, height=96, width=96)
    noise = 25 * np.random.default_rng(0).standard_normal(ir.shape)
    noisy = (ir + noise).clip(0, 255).astype(np.uint8)
    sees = PictureFuser(Fusing(bundle=read_bundle(folder))).sees
    assert next(iter(sees((vi, noisy)).shares["ir"])) == "random_noise"
    assert next(iter(sees((vi, ir)).shares["ir"])) == "clean"
    (folder / TYPES).unlink()
    assert PictureFuser(Fusing(bundle=read_bundle(folder))).sees((vi, ir)) == Sight()


@needs_small
def test_types_are_learnt_of_a_dataset_by_a_model_that_has_them(
    published: tuple[DatasetVersion, Path],
) -> None:
    version, folder = published
    bundle = read_bundle(find_pretrained("small"))
    pictures = list(stored_pictures(version, LocalFolder(folder)))
    types = types_of_pictures(bundle.system, bundle.fuser(), pictures)
    assert types is not None
    members = members_of(version.config.shard)
    assert {f"{camera}_{name}" for camera in types.means for name in types.means[camera]} == {
        *members
    }
    # LURE's probe finds other vectors, which nobody has trained to tell types apart.
    other = next(system for system in SYSTEMS if system.probe and system is not bundle.system)
    assert types_of_pictures(other, other.build_fuser(other.tiny()), pictures) is None


@needs_small
def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(find_pretrained("small"), folder)
    (folder / TYPES).write_text('{"temperature": 0, "means": {}, "reach": {}}')
    with pytest.raises(ValueError, match=r"types\.json: not a table of degradation types"):
        read_bundle(folder)
