"""The operators of hints against the kernels that degrade pictures."""

import numpy as np
import pytest
import torch

from degradations.blur import BlurParams, apply_blur
from degradations.resolution import LowResolutionParams, apply_low_resolution
from models.drfusion.operators import Operators, bicubic_rows, block_means, operators_of

SIZE = (37, 30)


def operators(*rows: list[float]) -> Operators:
    numbers = torch.tensor([rows], dtype=torch.float64)
    return operators_of(numbers, torch.Size(SIZE), inverse_threshold=0.03)


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, count, *SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigma_px", [0, 0.7, 2, 4])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_what_the_kernels_do(sigma_px: float, factor: int) -> None:
    x = pictures(1)
    degraded = apply_blur(
        x[0, 0, ..., None].numpy().astype(np.float32), BlurParams(size_px=21, sigma_px=sigma_px)
    )
    degraded = apply_low_resolution(degraded, LowResolutionParams(factor=factor))
    ours = operators([0, sigma_px, factor]).apply(x)
    np.testing.assert_allclose(ours[0, 0].numpy(), degraded[..., 0], atol=2e-6)


@pytest.mark.parametrize(
    ("row", "tolerance"),
    [([0, 0, 1], 1e-12), ([0, 0, 4], 1e-12), ([0, 2, 1], 5e-3), ([0, 2, 4], 5e-2)],
)
def test_the_inverse_fulfils_the_observation(row: list[float], tolerance: float) -> None:
    """A A† A = A (spec 13): exactly for identity and block means, nearly for the others."""
    made, x = operators(row), pictures(1)
    seen = made.apply(x)
    assert (made.apply(made.invert(seen)) - seen).abs().max() < tolerance


def test_pictures_of_a_batch_have_their_own_operators() -> None:
    x, rows = pictures(3), ([0.1, 0, 1], [0, 2, 1], [0, 1, 3])
    together = operators(*rows).apply(x)
    for place, row in enumerate(rows):
        alone = operators(row).apply(x[:, place : place + 1])
        torch.testing.assert_close(together[:, place : place + 1], alone)
    assert not operators(*rows).is_identity
    assert operators([0.1, 0, 1], [0, 0, 1]).is_identity


@pytest.mark.parametrize("row", [[0, 0, 1], [0, 2, 1], [0, 0, 4], [0, 2, 4]])
def test_the_transpose_is_the_adjoint(row: list[float]) -> None:
    made, (x, y) = operators(row), pictures(2)[0]
    x, y = x[None, None], y[None, None]
    torch.testing.assert_close((made.apply(x) * y).sum(), (x * made.transpose(y)).sum())


def test_conjugate_gradients_meet_the_observation_better_than_the_cascade() -> None:
    """Of blur and low resolution together the cascade is an approximation (spec 5, i)."""
    made = operators([0, 2, 4])
    truth, x = pictures(2)[0, :, None, None].split(1)
    error = made.apply(x[0]) - made.apply(truth[0])
    left = {
        name: (made.apply(x[0] - change) - made.apply(truth[0])).norm() / error.norm()
        for name, change in (("cascade", made.invert(error)), ("gradients", made.solve(error)))
    }
    assert left["gradients"] < 0.03 < left["cascade"]


@pytest.mark.parametrize("side", [2, 3, 4])
def test_interpolation_restores_what_is_smooth(side: int) -> None:
    length = 36
    line = torch.arange(length, dtype=torch.float64) / length
    coarse = block_means(torch.tensor(float(side)).double(), length) @ line
    smooth = bicubic_rows(torch.tensor(float(side)).double(), length) @ coarse
    inside = slice(2 * side, -2 * side)
    torch.testing.assert_close(smooth[inside], line[inside])
    assert (coarse - line)[inside].abs().max() > 0.01
    assert torch.equal(bicubic_rows(torch.tensor(1.0), 9), torch.eye(9))
