from typing import get_args

import numpy as np
import pytest

from degradations.catalogue import (
    Degradation,
    IrRanges,
    Modality,
    Suite,
    ViRanges,
    find,
    names,
)

ENTRIES = [
    pytest.param(find(modality, name), id=f"{modality}-{name}")
    for modality in get_args(Modality)
    for suite in get_args(Suite)
    for name in names(modality, suite=suite)
]


def images(modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    shape = (24, 32, 3 if modality == "vi" else 1)
    rng = np.random.default_rng(1)
    first, second = rng.random((2, *shape), dtype=np.float32)
    # Near the middle of the range, so that noise clips neither of them.
    return first * np.float32(0.1) + np.float32(0.45), second * np.float32(0.1) + np.float32(0.45)


def test_names():
    assert names("vi") == (
        "blur", "rain", "random_noise", "low_light", "over_exposure", "haze",
    )  # fmt: skip
    assert names("ir") == ("low_contrast", "random_noise", "stripe_noise")
    for modality in get_args(Modality):
        linear = ("gaussian_blur", "gaussian_noise", "low_resolution")
        assert names(modality, suite="drfusion") == linear


def test_the_table_and_the_ranges_name_the_same_degradations():
    for modality, ranges in (("vi", ViRanges), ("ir", IrRanges)):
        listed = {name for suite in get_args(Suite) for name in names(modality, suite=suite)}
        assert listed == set(ranges.model_fields)


@pytest.mark.parametrize(
    ("modality", "name"), [("vi", "fog"), ("ir", "rain"), ("vi", "clean"), ("vi", "stripe_noise")]
)
def test_an_unknown_name_lists_the_known_ones(modality, name):
    with pytest.raises(ValueError, match=name) as error:
        find(modality, name)
    assert all(known in str(error.value) for known in names(modality))


@pytest.mark.parametrize("entry", ENTRIES)
def test_default_ranges_are_those_of_the_modality(entry: Degradation):
    ranges = ViRanges() if entry.modality == "vi" else IrRanges()
    assert entry.ranges == getattr(ranges, entry.name)
    assert entry.source


@pytest.mark.parametrize("entry", ENTRIES)
def test_drawn_parameters_are_of_the_named_type_and_survive_json(entry: Degradation):
    params = entry.draw(entry.ranges, np.random.default_rng(2))
    assert type(params) is entry.params_type
    assert entry.params_type.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("entry", ENTRIES)
def test_defaults_visibly_change_an_image(entry: Degradation):
    image, _ = images(entry.modality)
    params = entry.draw(entry.ranges, np.random.default_rng(3))
    changed = entry.apply(image, params)
    assert np.abs(changed - image).mean() > 1 / 255


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_linear_flag_is_true(entry: Degradation):
    """Linear: superposition of differences is exact, and what is left on grey is white noise."""
    a, b = images(entry.modality)
    params = entry.draw(entry.ranges, np.random.default_rng(4))
    grey = np.full_like(a, 0.5)

    def response(image: np.ndarray) -> np.ndarray:
        return entry.apply(image, params) - entry.apply(grey, params)

    superposed = np.allclose(response(a + b - grey), response(a) + response(b), atol=1e-5)
    noise = entry.apply(grey, params) - grey
    spread = noise.std(axis=(0, 2)).mean()
    unbiased = abs(noise.mean()) <= 4 * spread / np.sqrt(noise.size) + 1e-6
    # Stripes and haze are no white noise: whole columns, or the whole picture, leave the grey.
    white = np.abs(noise.mean(axis=(0, 2))).max() <= 4 * spread / np.sqrt(24) + 1e-6
    assert (superposed and unbiased and white) == entry.linear


@pytest.mark.parametrize("ranges", [ViRanges, IrRanges])
def test_a_misspelt_degradation_is_an_error(ranges):
    with pytest.raises(ValueError, match="stripes"):
        ranges.model_validate({"stripes": {}})
