"""Named samplers: what a sample is, and which fields it has."""

import numpy as np
import pytest
import torch

from degradations.operators import operator_numbers, task_names
from pipelines.batches.samplers import SingleSample
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]
PAIR_FIELDS = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "seed")
LINEAR = ("gaussian_blur", "gaussian_noise", "low_resolution")


@pytest.fixture(scope="module")
def linear(scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A version of which every degradation has an operator."""
    root = LocalFolder(tmp_path_factory.mktemp("linear"))
    config = DatasetConfig(name="linear", shard=ShardConfig(vi=LINEAR, ir=LINEAR))
    return make_version(root, config, scenes[:6]), root


def open_batches(published: Published, **settings: object) -> ShardBatches:
    version, root = published
    defaults = {"fields": PAIR_FIELDS, "batch_size": 4, "crop_px": 32, "seed": 1}
    share = {name: settings.pop(name) for name in ("rank", "world_size") if name in settings}
    return ShardBatches(version, root, Batching(**{**defaults, **settings}), **share)  # type: ignore[arg-type]


def test_pairs_are_the_anchors_of_groups(version_root: Published) -> None:
    groups = open_batches(version_root)
    pairs = open_batches(version_root, sampler="pairs")
    assert len(groups) == len(pairs)
    for step in (0, 7):
        batch = pairs.batch(step)
        for name, value in groups.batch(step).items():
            assert torch.equal(batch[name], value), name


def test_pairs_carry_operators_and_tasks_of_their_anchors(linear: Published) -> None:
    fields = ("vi_op", "ir_op", "vi_task", "ir_task")
    batches = open_batches(linear, fields=fields, sampler="pairs")
    batch = batches.batch(0)
    assert {name: (batch[name].dtype, tuple(batch[name].shape)) for name in fields} == {
        "vi_op": (torch.float32, (4, 3)),
        "ir_op": (torch.float32, (4, 3)),
        "vi_task": (torch.int64, (4,)),
        "ir_task": (torch.int64, (4,)),
    }
    for row, position in enumerate(batch["position"].tolist()):
        sample = batches.sample_at(position)
        for camera, variant in sample.anchors.items():
            chain = sample.reader.metas[sample.scene].variants.get(f"{camera}_{variant}", ())
            numbers = batch[f"{camera}_op"][row].numpy()
            np.testing.assert_array_equal(numbers, operator_numbers(chain))
            assert task_names(camera)[int(batch[f"{camera}_task"][row])] == variant


def test_singles_are_every_picture_of_every_camera_once(version_root: Published) -> None:
    batches = open_batches(version_root, fields=("camera", "task"), sampler="singles")
    # 16 scenes, each with a clean and three degraded pictures a camera.
    assert len(batches) == 16 * 2 * 4
    samples = [batches.sample_at(position) for position in range(len(batches))]
    assert len({(one.scene, one.camera, one.variant) for one in samples}) == len(batches)


def test_a_single_is_a_picture_and_its_target(linear: Published) -> None:
    fields = ("lq", "gt", "camera", "op", "task", "seed")
    batches = open_batches(linear, fields=fields, sampler="singles", batch_size=48)
    batch = batches.batch(0)
    assert batch["lq"].shape == batch["gt"].shape == (48, 3, 32, 32)
    assert batch["op"].shape == (48, 3)
    assert {int(camera) for camera in batch["camera"]} == {0, 1}
    for row, position in enumerate(batch["position"].tolist()):
        sample = batches.sample_at(position)
        assert isinstance(sample, SingleSample)
        camera = ("ir", "vi")[int(batch["camera"][row])]
        assert sample.camera == camera
        assert task_names(sample.camera)[int(batch["task"][row])] == sample.variant
        clean = batch["op"][row].tolist() == [0, 0, 1]
        assert clean == (sample.variant == "clean")
        assert torch.equal(batch["lq"][row], batch["gt"][row]) == clean
        if camera == "ir":
            assert torch.equal(batch["lq"][row, 0], batch["lq"][row, 2])


@pytest.mark.parametrize(
    ("sampler", "field"),
    [("pairs", "neg"), ("singles", "vi_lq"), ("groups", "lq"), ("groups", "vi_pso")],
)
def test_a_field_that_the_sampler_lacks_names_both(
    version_root: Published, sampler: str, field: str
) -> None:
    with pytest.raises(ValueError, match=rf"'{sampler}' has no batch fields \['{field}'\]"):
        open_batches(version_root, fields=(field,), sampler=sampler)


def test_an_unknown_sampler_is_an_error(version_root: Published) -> None:
    with pytest.raises(ValueError, match="no sampler 'triples'; known: groups, pairs, singles"):
        open_batches(version_root, sampler="triples")


@pytest.mark.parametrize(("sampler", "field"), [("pairs", "vi_op"), ("singles", "op")])
def test_operators_of_what_is_not_linear_fail_before_the_first_batch(
    version_root: Published, sampler: str, field: str
) -> None:
    with pytest.raises(ValueError, match=r"scene '.*', .*_.*: '.*' has no linear operator"):
        open_batches(version_root, fields=(field,), sampler=sampler)


def test_operators_of_native_files_are_not_known(linear: Published) -> None:
    meta = next(iter(open_batches(linear).sample_at(0).reader.metas.values()))
    native = meta.model_copy(update={"natives": {"vi_gaussian_blur": "0" * 64}})
    with pytest.raises(ValueError, match="vi_gaussian_blur is a native file"):
        native.chain("vi_gaussian_blur")
    assert meta.chain("vi_clean") == ()
    assert meta.chain("vi_gaussian_blur")[0].name == "gaussian_blur"
