"""The correction and the chain (spec 4)."""

import pytest
import torch
from torch import Tensor

from models.drfusion.config import Correction, DRFusionConfig, tiny
from models.drfusion.observation import (
    Observation,
    correct,
    corrected,
    correction_scale,
    observe,
    step_scale,
)
from models.drfusion.operators import operators_of
from models.drfusion.sampler import UnrolledChain
from tests.models.drfusion.samples import BLURRED, CLEAN, COARSE, NOISY

SIDE = 16


def observation(*rows: list[float], sigma_y: float | None = None, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(1, 2, SIDE, SIDE, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([rows], dtype=torch.float64)
    operators = operators_of(numbers, pictures.shape, inverse_threshold=0.03)
    return observe(pictures, numbers, operators, sigma_y=sigma_y)


def estimate() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    drawn = torch.rand(1, 4, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return drawn[:, :3], drawn[:, 3:]


def moved(rows: list[list[float]], scale: float, form: Correction) -> tuple[Tensor, Observation]:
    x, weight = estimate()
    seen, lambdas = observation(*rows), torch.tensor(scale, dtype=torch.float64)
    return corrected(x, weight, seen, (lambdas, lambdas), form=form), seen


@pytest.mark.parametrize("row", [NOISY, COARSE])
def test_the_papers_form_fuses_the_corrected_sources(row: list[float]) -> None:
    """λ = 1: f̄ = W1 ā + W2 b̄ with W1 + W2 = 1."""
    x, weight = estimate()
    bar, seen = moved([row, row], 1.0, "paper")
    torch.testing.assert_close(bar[:, 2:], weight * bar[:, :1] + (1 - weight) * bar[:, 1:2])
    residual = seen.operators.invert(seen.operators.apply(x[:, :2]) - seen.pictures)
    torch.testing.assert_close(bar[:, :2], x[:, :2] - residual)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_the_released_form(scale: float) -> None:
    """Spec 4.5, its equivalent formula; it is the paper's at λ of 0 and 1, and for other operators."""
    x, m = estimate()
    bar, seen = moved([NOISY, NOISY], scale, "released")
    (a, b, f), (y1, y2) = x.split(1, dim=1), seen.pictures.split(1, dim=1)
    expected = (1 - scale) * f + scale * (m * y1 + (1 - m) * y2)
    expected -= scale * (1 - scale) * (m * (a - y1) + (1 - m) * (b - y2))
    torch.testing.assert_close(bar[:, 2:], expected)
    same = torch.equal(bar, moved([NOISY, NOISY], scale, "paper")[0])
    assert same == (scale == 0) or scale == 1
    rows = [BLURRED, NOISY]
    assert torch.equal(moved(rows, scale, "released")[0], moved(rows, scale, "paper")[0])


def test_each_source_has_its_own_scale_and_the_fused_the_smaller() -> None:
    seen = observation([1.5, 0, 1], CLEAN)
    scale = step_scale(torch.tensor(0.3), torch.tensor(0.6))
    lambdas = correction_scale(scale, seen.sigma_y).flatten()
    assert 0 < lambdas[0] < 1
    assert lambdas[1] == 1
    x, weight = estimate()
    bar = correct(x, weight, seen, scale, form="paper")
    first = (bar - x)[:, 0] / (seen.pictures - x[:, :2])[:, 0]
    torch.testing.assert_close(first, lambdas[0].expand_as(first))
    sources = weight * seen.pictures[:, :1] + (1 - weight) * seen.pictures[:, 1:]
    fused = (1 - lambdas[0]) * x[:, 2:] + lambdas[0] * sources
    torch.testing.assert_close(bar[:, 2:], fused)


def test_a_noisy_blur_is_corrected_less_where_it_is_strong() -> None:
    """Spec 5, iii: at a frequency, λ is that of the noise over |H|; so noise is not amplified."""
    x, weight = estimate()
    scale = step_scale(torch.tensor(0.3), torch.tensor(0.6))
    noisy, quiet = (
        correct(x, weight, observation(row, row), scale, form="paper")
        for row in ([0.2, 2, 1], [0, 2, 1])
    )
    assert (noisy - x).std() < 0.5 * (quiet - x).std()


def chain(**changes: object) -> UnrolledChain:
    torch.manual_seed(0)
    config = DRFusionConfig(**{**dict(tiny()), "num_steps": 3, **changes})
    return UnrolledChain(config).double().eval()


def test_off_is_plain_ddim() -> None:
    model = chain(correction="off")
    seen, bars = observation(NOISY, NOISY), model.alpha_bars()
    first, second = seen.pictures.split(1, dim=1)
    x = bars[3].sqrt() * torch.cat([first, second, (first + second) / 2], dim=1)
    for t in (3, 2, 1):
        noise, _ = model.unet(x, t)
        x0 = (x - (1 - bars[t]).sqrt() * noise) / bars[t].sqrt()
        x = bars[t - 1].sqrt() * x0 + (1 - bars[t - 1]).sqrt() * noise
    torch.testing.assert_close(model(seen), x)


def test_clean_pictures_are_kept() -> None:
    """Without noise λ is 1 at the last step, too: the sources are what was observed."""
    seen = observation(CLEAN, CLEAN)
    torch.testing.assert_close(chain(correction="paper")(seen)[:, :2], seen.pictures)


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_as_many_coefficients_as_steps(num_steps: int) -> None:
    model = chain(num_steps=num_steps)
    assert model.alpha.tolist() == [0.5] * num_steps
    assert model.alpha_bars()[-1] == 0.5**num_steps
    assert len(list(model.steps(observation(NOISY, NOISY)))) == num_steps


def test_coefficients_outside_the_unit_interval_do_no_harm() -> None:
    model = chain()
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([1.2, -0.3, 0.5]))
    assert model(observation(NOISY, BLURRED)).isfinite().all()
    assert model.alpha.tolist() == pytest.approx([1.2, -0.3, 0.5])


def test_the_gradient_reaches_the_schedule_through_lambda() -> None:
    """Against finite differences, at a noise so large that λ is below 1 (spec 13)."""
    model, seen = chain(correction="paper"), observation(NOISY, NOISY, sigma_y=2.4)
    bars = model.alpha_bars()
    scales = [correction_scale(step_scale(bars[t], bars[t - 1]), seen.sigma_y) for t in (2, 3)]
    assert any(0 < float(each.detach().min()) < 1 for each in scales)

    def loss(alpha: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"alpha": alpha}, (seen,)).square().mean()

    alpha = torch.tensor([0.52, 0.48, 0.55], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, alpha, eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss(alpha), alpha)
    assert (gradient != 0).all()
