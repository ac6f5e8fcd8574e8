import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from degradations.blur import BlurRanges
from degradations.catalogue import IrRanges, ViRanges, names
from degradations.chain import Applied, apply_chain, draw_chain
from degradations.noise import GaussianNoiseRanges

ROOT = Path(__file__).resolve().parents[2]


def picture(modality: str) -> np.ndarray:
    shape = (48, 64, 3 if modality == "vi" else 1)
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        (modality, name)
        for modality in ("vi", "ir")
        for suite in ("dspfusion", "drfusion")
        for name in names(modality, suite=suite)
    ],
)
def test_every_degradation_runs_through_a_chain(modality, name):
    image = picture(modality)
    before = image.copy()
    chain = draw_chain(modality, [name], np.random.default_rng(2))
    changed = apply_chain(image, modality, chain)
    assert changed.shape == image.shape
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert image.tobytes() == before.tobytes()
    assert not np.array_equal(changed, image)


def test_a_chain_applies_in_order():
    dark, noisy = draw_chain("vi", ["low_light", "random_noise"], np.random.default_rng(2))
    image = picture("vi")
    step = apply_chain(image, "vi", [dark])
    both = apply_chain(image, "vi", [dark, noisy])
    np.testing.assert_array_equal(both, apply_chain(step, "vi", [noisy]))
    assert not np.array_equal(both, apply_chain(image, "vi", [noisy, dark]))


def test_the_mixed_chain_of_drfusion_matches_its_measured_residual():
    # DRFusion spec 7: block means of (blurred + noise of 8.07) leave a noise of 2.06 levels.
    ranges = IrRanges(gaussian_noise=GaussianNoiseRanges(sigma_range_level=(8.07, 8.07)))
    mixed = ["gaussian_blur", "gaussian_noise", "low_resolution"]
    chain = draw_chain("ir", mixed, np.random.default_rng(0), ranges=ranges)
    flat = np.full((256, 256, 1), 0.5, np.float32)
    coarse = apply_chain(flat, "ir", chain)[::4, ::4] * 255
    assert coarse.std() == pytest.approx(8.07 / 4, rel=0.03)


def test_an_empty_chain_is_a_copy():
    image = picture("ir")
    clean = apply_chain(image, "ir", ())
    np.testing.assert_array_equal(clean, image)
    assert not np.shares_memory(clean, image)


def test_draws_depend_on_the_generator_alone():
    same = [draw_chain("vi", names("vi"), np.random.default_rng([7, 1])) for _ in range(2)]
    assert same[0] == same[1]
    assert draw_chain("vi", names("vi"), np.random.default_rng([7, 2])) != same[0]


def test_a_record_survives_json_and_reproduces_the_pixels():
    rng = np.random.default_rng(2)
    for modality, chosen in (("vi", ["rain", "random_noise"]), ("ir", ["stripe_noise"])):
        chain = draw_chain(modality, chosen, rng)
        read = tuple(Applied.model_validate_json(applied.model_dump_json()) for applied in chain)
        assert read == chain
        image = picture(modality)
        first = apply_chain(image, modality, chain)
        assert first.tobytes() == apply_chain(image, modality, read).tobytes()


def test_another_process_makes_the_same_bytes():
    chain = draw_chain("vi", names("vi"), np.random.default_rng(5))
    script = (
        "import hashlib, json, sys, numpy as np\n"
        "from degradations.chain import Applied, apply_chain\n"
        "chain = [Applied(**entry) for entry in json.loads(sys.argv[1])]\n"
        "image = np.random.default_rng(1).random((48, 64, 3), dtype=np.float32)\n"
        "sys.stdout.write(apply_chain(image, 'vi', chain).tobytes().hex())\n"
    )
    record = json.dumps([applied.model_dump() for applied in chain])
    done = subprocess.run(
        [sys.executable, "-c", script, record], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert done.stdout == apply_chain(picture("vi"), "vi", chain).tobytes().hex()


def test_ranges_replace_the_defaults():
    ranges = ViRanges(blur=BlurRanges(sigma_range_px=(1.5, 1.5)))
    (applied,) = draw_chain("vi", ["blur"], np.random.default_rng(0), ranges=ranges)
    assert applied == Applied(name="blur", params={"size_px": 21, "sigma_px": 1.5})


def test_ranges_of_the_other_modality_are_refused():
    with pytest.raises(ValueError, match="IrRanges"):
        draw_chain("vi", ["random_noise"], np.random.default_rng(0), ranges=IrRanges())


def test_unknown_and_clean_names_are_refused():
    for name in ("fog", "clean"):
        with pytest.raises(ValueError, match="stripe_noise"):
            draw_chain("ir", [name], np.random.default_rng(0))


def test_foreign_parameters_are_refused():
    with pytest.raises(ValueError, match="radius"):
        apply_chain(picture("vi"), "vi", [Applied(name="blur", params={"radius": 3})])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.float32), "pass H×W×1"),
        (np.zeros((8, 8, 3), np.float32), "pass H×W×1"),
        (np.zeros((8, 8, 1), np.uint16), "pass uint8, or float32"),
        (np.full((8, 8, 1), 2, np.float32), "pass uint8, or float32"),
        (np.full((8, 8, 1), np.nan, np.float32), "pass uint8, or float32"),
    ],
)
def test_a_wrong_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        apply_chain(image, "ir", ())
