import math

import pytest
import torch

from models.diffusion import ancestral_step, q_sample, reverse_step, sqrt_linear_schedule


def schedule():
    return sqrt_linear_schedule(10, beta_start=0.1, beta_end=0.99)


def test_known_values():
    """The table of spec 1.4."""
    s = schedule()
    assert s.num_steps == 10
    assert s.betas[5] == pytest.approx(0.480688, abs=1e-6)
    assert s.alpha_bars[9] == pytest.approx(2.44983e-5, rel=1e-5)
    assert s.k1[4] == pytest.approx(0.334493, abs=1e-6)
    assert s.k2[9] == pytest.approx(0.0997575, abs=1e-7)


def test_last_step_returns_the_prediction():
    x0, x_t = torch.rand(2, 2, 3)
    torch.testing.assert_close(reverse_step(x0, x_t, 0, schedule()), x0)


def test_reverse_step_is_the_posterior_mean():
    """With a true x0 and no noise, a step leads from x_t to x_{t-1} of the same noiseless path."""
    s = schedule()
    x0 = torch.rand(3)
    for t in range(1, 10):
        x_t = q_sample(x0, torch.zeros(3), s.alpha_bars[t])
        x_before = q_sample(x0, torch.zeros(3), s.alpha_bars[t - 1])
        torch.testing.assert_close(reverse_step(x0, x_t, t, s), x_before)


def test_ancestral_step_known_value():
    """Two steps, beta 0.36 and 0.64: abar 0.64 and 0.2304; the variance is 0.64 * 0.36 / 0.7696."""
    s = sqrt_linear_schedule(2, beta_start=0.36, beta_end=0.64)
    x_t, predicted, added = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([2.0])
    mean = (1 - 0.64 / math.sqrt(0.7696) * 0.5) / 0.6
    sigma = math.sqrt(0.64 * 0.36 / 0.7696)
    assert float(ancestral_step(predicted, x_t, added, 1, s)) == pytest.approx(mean + 2 * sigma)
    assert float(ancestral_step(predicted, x_t, None, 1, s)) == pytest.approx(mean)


def test_ancestral_mean_is_the_posterior_mean():
    """A true noise stands for a true x0: both steps have one mean, and at timestep 0 it is x0."""
    s = schedule()
    x0, noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in range(10):
        x_t = q_sample(x0, noise, s.alpha_bars[t])
        step = ancestral_step(noise, x_t, None, t, s)
        torch.testing.assert_close(step, reverse_step(x0, x_t, t, s))
    assert s.sigmas[0] == 0
    torch.testing.assert_close(ancestral_step(noise, q_sample(x0, noise, 0.9), None, 0, s), x0)


def test_q_sample_keeps_unit_variance():
    x0, noise = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    assert float(q_sample(x0, noise, 0.3).var()) == pytest.approx(1, abs=0.03)


def test_one_step_is_refused():
    with pytest.raises(ValueError, match="num_steps is 1"):
        sqrt_linear_schedule(1, beta_start=0.1, beta_end=0.9)
