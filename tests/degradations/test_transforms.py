import json
import warnings
from typing import get_args

import albumentations as A
import numpy as np
import pytest

from degradations.catalogue import Modality, Suite, find, names
from degradations.chain import apply_chain
from degradations.transforms import Degrade

ENTRIES = [
    pytest.param(modality, name, id=f"{modality}-{name}")
    for modality in get_args(Modality)
    for suite in get_args(Suite)
    for name in names(modality, suite=suite)
]


def picture(modality: str = "vi", dtype: type = np.float32) -> np.ndarray:
    shape = (24, 32, 3 if modality == "vi" else 1)
    levels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return levels if dtype is np.uint8 else levels / np.float32(255)


@pytest.mark.parametrize(("modality", "name"), ENTRIES)
def test_it_is_the_kernel_with_its_record(modality, name):
    image = picture(modality)
    before = image.copy()
    transform = Degrade(modality, name)
    changed = A.Compose([transform], seed=3)(image=image)["image"]
    applied = transform.get_applied_params()["applied"]
    assert find(modality, name).params_type.model_validate(applied.params)
    assert changed.tobytes() == apply_chain(image, modality, [applied]).tobytes()
    assert changed.dtype == np.float32
    assert image.tobytes() == before.tobytes()


@pytest.mark.parametrize(("modality", "name"), ENTRIES)
def test_eight_bit_is_the_rounded_float(modality, name):
    compose = A.Compose([Degrade(modality, name)], seed=3)
    changed = compose(image=picture(modality, np.uint8))["image"]
    compose.set_random_seed(3)
    exact = compose(image=picture(modality))["image"]
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, np.rint(exact * 255))


def test_a_seed_reproduces_and_goes_on():
    first, second = (
        A.Compose([Degrade("vi", "random_noise"), Degrade("vi", "rain")], seed=5) for _ in range(2)
    )
    pictures = [
        [one(image=picture())["image"].tobytes() for _ in range(2)] for one in (first, second)
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0][0] != pictures[0][1]
    other = A.Compose([Degrade("vi", "random_noise"), Degrade("vi", "rain")], seed=6)
    assert other(image=picture())["image"].tobytes() != pictures[0][0]


def test_dict_round_trip_reproduces_the_pipeline():
    pipeline = A.Compose(
        [Degrade("vi", "rain", {"angle_range_deg": (10, 20)}), Degrade("vi", "haze", p=0.25)],
        additional_targets={"later": "image"},
        seed=4,
    )
    written = json.dumps(A.to_dict(pipeline))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = A.from_dict(json.loads(written))
    assert json.dumps(A.to_dict(read)) == written
    assert read.transforms[0].ranges == {"angle_range_deg": [10.0, 20.0]}
    assert [step.p for step in read.transforms] == [1.0, 0.25]
    read.set_random_seed(4)
    images = {"image": picture(), "later": picture()[::-1].copy()}
    expected, again = pipeline(**images), read(**images)
    assert all(expected[key].tobytes() == again[key].tobytes() for key in images)


def test_additional_targets_share_the_draw():
    transform = Degrade("vi", "random_noise")
    both = A.Compose([transform], additional_targets={"again": "image"}, seed=2)(
        image=picture(), again=picture()
    )
    assert both["image"].tobytes() == both["again"].tobytes()
    assert both["image"].tobytes() != picture().tobytes()


def test_a_pair_in_one_pipeline():
    pipeline = A.Compose(
        [
            A.CenterCrop(16, 20, p=1),
            Degrade("vi", "rain", only="image"),
            Degrade("ir", "stripe_noise", only="ir"),
        ],
        additional_targets={"ir": "image"},
        seed=1,
    )
    done = pipeline(image=picture(), ir=picture("ir"))
    rain, stripes = (step.get_applied_params()["applied"] for step in pipeline.transforms[1:])
    cut = (slice(4, 20), slice(6, 26))
    assert done["image"].tobytes() == apply_chain(picture()[cut], "vi", [rain]).tobytes()
    assert done["ir"].tobytes() == apply_chain(picture("ir")[cut], "ir", [stripes]).tobytes()


def test_a_picture_without_a_channel_axis():
    grey = picture("ir", np.uint8)[..., 0]
    changed = A.Compose([Degrade("ir", "low_contrast")], seed=1)(image=grey)["image"]
    assert changed.shape == (24, 32)
    assert not np.array_equal(changed, grey)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vi", "fog"), "known: blur"),
        (("ir", "rain"), "known: low_contrast"),
        (("vi", "blur", {"sigma": 2}), "sigma"),
        (("vi", "blur", {"sigma_range_px": (3, 1)}), "not low <= high"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Degrade(*arguments)


def test_a_target_that_is_not_there_is_named():
    compose = A.Compose([Degrade("ir", "stripe_noise", only="ir")])
    with pytest.raises(ValueError, match="only='ir' names no target"):
        compose(image=picture())
