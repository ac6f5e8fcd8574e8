"""Albumentations transforms as degradations of a recipe's own."""

import json

import albumentations as A
import numpy as np
import pytest

from degradations.chain import Applied, apply_and_record, apply_chain, draw_chain
from degradations.operators import operator_numbers
from degradations.own import OwnTransforms, check_names, parts_of
from degradations.transforms import Degrade

MOTION = A.to_dict(A.MotionBlur(blur_limit=(7, 15), p=1))
MIXED = A.to_dict(
    A.Compose([Degrade("ir", "stripe_noise"), A.OneOf([A.GaussNoise(p=1), A.Defocus(p=1)], p=1)])
)


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((48, 64, channels), dtype=np.float32)


def degraded(name: str, camera: str, own: OwnTransforms, seed: int = 2):
    drawn = draw_chain(camera, [name], np.random.default_rng(seed), own=own.of(camera))
    return apply_and_record(picture(3 if camera == "vi" else 1), camera, drawn)


@pytest.mark.parametrize(("camera", "serialised"), [("vi", MOTION), ("ir", MIXED)])
def test_a_record_reproduces_the_pixels(camera, serialised):
    own = OwnTransforms(**{camera: {"mine": serialised}})
    changed, (applied,) = degraded("mine", camera, own)
    before = picture(changed.shape[2])
    assert (changed.shape, changed.dtype) == (before.shape, np.float32)
    assert 0 <= changed.min() < changed.max() <= 1
    assert np.abs(changed - before).mean() > 1 / 255
    read = Applied.model_validate_json(applied.model_dump_json())
    assert read == applied
    assert apply_chain(before, camera, [read]).tobytes() == changed.tobytes()
    assert degraded("mine", camera, own)[0].tobytes() == changed.tobytes()
    assert degraded("mine", camera, own, seed=3)[0].tobytes() != changed.tobytes()


def test_the_record_holds_what_was_drawn():
    own = OwnTransforms(vi={"mine": MOTION})
    changed, (applied,) = degraded("mine", "vi", own)
    (step,) = applied.params["drawn"]
    assert step["name"] == "MotionBlur"
    kernel = np.array(step["params"]["kernel"], np.float32)
    # It is the blur that was applied: its kernel alone makes the pixels again, away from the edges.
    again = np.zeros((32, 48, 3), np.float32)
    for (down, across), weight in np.ndenumerate(kernel):
        top, left = 8 + down - kernel.shape[0] // 2, 8 + across - kernel.shape[1] // 2
        again += weight * picture()[top : top + 32, left : left + 48]
    np.testing.assert_allclose(changed[8:40, 8:56], again, atol=1e-5)


def test_kernels_of_the_catalogue_are_recorded_by_their_parameters():
    _, (applied,) = degraded("mine", "ir", OwnTransforms(ir={"mine": MIXED}))
    first, second = applied.params["drawn"]
    assert first["name"] == "Degrade"
    assert first["params"]["applied"]["name"] == "stripe_noise"
    assert second["name"] in ("GaussNoise", "Defocus")
    assert len(applied.model_dump_json()) < 4000  # a noise field is not in it


def test_the_catalogues_records_have_no_new_field():
    (applied,) = draw_chain("vi", ["blur"], np.random.default_rng(0))
    assert set(json.loads(applied.model_dump_json())) == {"name", "params"}


def test_only_the_own_one_has_no_operator():
    own = OwnTransforms(vi={"mine": MOTION})
    _, chain = degraded("mine", "vi", own)
    with pytest.raises(ValueError, match="'mine' has no linear operator"):
        operator_numbers(chain)


def test_the_address_follows_transform_and_kernels():
    one = OwnTransforms(ir={"mine": MIXED}).address()
    assert one["ir"]["mine"]["kernels"] == {"ir_stripe_noise": 1}
    assert one["ir"]["mine"]["albumentations"] == A.__version__
    other = A.to_dict(A.Compose([Degrade("ir", "stripe_noise")]))
    assert OwnTransforms(ir={"mine": other}).address() != one
    # Tuples of `A.to_dict` are lists after a journey through JSON.
    assert (
        OwnTransforms(**json.loads(OwnTransforms(ir={"mine": MIXED}).model_dump_json())).address()
        == one
    )


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.to_dict(A.HorizontalFlip(p=1)), "HorizontalFlip moves pixels"),
        (A.to_dict(A.Compose([A.Affine(p=1)])), "Affine moves pixels"),
        (A.to_dict(A.MotionBlur()), "p=0.5 would leave"),
        (A.to_dict(A.RandomRain(p=1)), "3-channel images"),
        ({"transform": {"__class_fullname__": "Nonsense", "p": 1}}, "'Nonsense' is missing, or no"),
        ({"blur": 3}, "'transform' is missing"),
        ({"transform": {"__class_fullname__": "MotionBlur", "p": 1, "width": 3}}, "width"),
        (A.MotionBlur(p=1), "written as A.to_dict"),
    ],
)
def test_what_degrades_no_registered_picture_is_refused(transform, message):
    with pytest.raises(ValueError, match=message):
        OwnTransforms(ir={"mine": transform})


@pytest.mark.parametrize("name", ["blur", "stripe_noise", "clean", "gt", "a+b", "Motion"])
def test_a_name_that_is_taken_or_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"is taken|should match"):
        OwnTransforms(ir={name: MOTION})


def test_names_join_with_plus():
    assert parts_of("clean") == ()
    assert parts_of("mine+gaussian_noise") == ("mine", "gaussian_noise")
    own = OwnTransforms(vi={"mine": MOTION})
    check_names("vi", ["mine+gaussian_noise", "blur"], own)
    with pytest.raises(ValueError, match="no degradation 'fog'"):
        check_names("vi", ["mine+fog"], own)
    with pytest.raises(ValueError, match="no degradation 'mine' for modality 'ir'"):
        check_names("ir", ["mine"], own)
