"""Numbers of recorded chains."""

import numpy as np
import pytest

from degradations.catalogue import Modality, names
from degradations.chain import Applied, draw_chain
from degradations.operators import is_linear, operator_numbers, task_names, task_number

BLUR = Applied(name="gaussian_blur", params={"size_px": 21, "sigma_px": 2.0})
VI_BLUR = Applied(name="blur", params={"size_px": 21, "sigma_px": 1.25})
COARSE = Applied(name="low_resolution", params={"factor": 4})
NOISE = Applied(name="gaussian_noise", params={"sigma_level": 14.0, "seed": 3})
RAIN = draw_chain("vi", ["rain"], np.random.default_rng(0))[0]


def test_shape() -> None:
    numbers = operator_numbers([BLUR, COARSE, NOISE])
    assert numbers.shape == (3,)
    assert numbers.dtype == np.float32


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([], (0, 0, 1)),
        ([BLUR], (0, 2, 1)),
        ([VI_BLUR], (0, 1.25, 1)),
        ([COARSE], (0, 0, 4)),
        ([NOISE], (14 / 255, 0, 1)),
        ([BLUR, NOISE], (14 / 255, 2, 1)),
        ([BLUR, COARSE, NOISE], (14 / 255, 2, 4)),
        # White noise has a quarter of its deviation in the means of 4x4 pixels.
        ([NOISE, COARSE], (14 / 255 / 4, 0, 4)),
        ([BLUR, NOISE, COARSE], (14 / 255 / 4, 2, 4)),
    ],
)
def test_known_values(chain: list[Applied], expected: tuple[float, float, float]) -> None:
    np.testing.assert_array_equal(operator_numbers(chain), np.array(expected, np.float32))


@pytest.mark.parametrize("modality", ["vi", "ir"])
def test_every_linear_line_of_the_catalogue_has_numbers(modality: Modality) -> None:
    for name in (*names(modality), *names(modality, suite="drfusion")):
        chain = draw_chain(modality, [name], np.random.default_rng(0))
        if is_linear(modality, [name]):
            assert tuple(operator_numbers(chain)) != (0, 0, 1)
        else:
            with pytest.raises(ValueError, match="no linear operator"):
                operator_numbers(chain)


def test_a_degradation_that_is_not_linear_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"'rain' has no linear .*gaussian_blur.*gaussian_noise"):
        operator_numbers([BLUR, RAIN])
    assert is_linear("vi", ())
    assert is_linear("ir", ("gaussian_blur", "gaussian_noise", "low_resolution"))
    assert not is_linear("vi", ("rain",))
    assert not is_linear("vi", ("gaussian_noise", "gaussian_blur"))


@pytest.mark.parametrize(
    "chain",
    [
        [NOISE, BLUR],
        [COARSE, BLUR],
        [NOISE, COARSE, BLUR],
        [BLUR, BLUR],
        [VI_BLUR, BLUR],
        [COARSE, NOISE, COARSE],
        [NOISE, COARSE, NOISE],
    ],
)
def test_another_order_is_not_the_observation_model(chain: list[Applied]) -> None:
    with pytest.raises(ValueError, match="only that order"):
        operator_numbers(chain)


def test_tasks_are_the_table_of_the_camera() -> None:
    assert task_names("ir") == (
        "clean",
        "low_contrast",
        "random_noise",
        "stripe_noise",
        "gaussian_blur",
        "gaussian_noise",
        "low_resolution",
    )
    assert task_number("ir", []) == 0
    assert task_number("ir", [BLUR]) == 4
    assert task_number("vi", [RAIN]) == 2


def test_a_task_of_another_camera_or_of_several_degradations_is_an_error() -> None:
    with pytest.raises(ValueError, match="no degradation 'rain' for modality 'ir'"):
        task_number("ir", [RAIN])
    with pytest.raises(ValueError, match="gaussian_blur, gaussian_noise: tasks of several"):
        task_number("ir", [BLUR, NOISE])
