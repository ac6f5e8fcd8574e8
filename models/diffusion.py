"""Diffusion by predicted x0 with a deterministic reverse step, or by predicted noise with a random one.

Constants are Python floats computed in float64: they need no buffers, no index tensors and no
place in a checkpoint.
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The constants of a chain of T steps, each a tuple indexed by the timestep 0..T-1.

    `betas` and `alpha_bars` as usual; `k1` weighs the predicted x0 and `k2` the current x_t in the
    reverse step (spec 1.4); `sigmas` are the posterior's standard deviations, 0 at timestep 0.
    """

    betas: tuple[float, ...]
    alpha_bars: tuple[float, ...]
    k1: tuple[float, ...]
    k2: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def num_steps(self) -> int:
        """Length T of the chain."""
        return len(self.betas)


def sqrt_linear_schedule(num_steps: int, *, beta_start: float, beta_end: float) -> Schedule:
    """Return the schedule whose beta is linear in the square root (spec 1.4)."""
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; a schedule from start to end needs two")
    low, high = math.sqrt(beta_start), math.sqrt(beta_end)
    betas = [(low + t / (num_steps - 1) * (high - low)) ** 2 for t in range(num_steps)]
    alpha_bars, k1, k2, sigmas = [], [], [], []
    previous = 1.0
    for beta in betas:
        alpha_bar = previous * (1 - beta)
        k1.append(beta * math.sqrt(previous) / (1 - alpha_bar))
        k2.append((1 - previous) * math.sqrt(1 - beta) / (1 - alpha_bar))
        sigmas.append(math.sqrt(beta * (1 - previous) / (1 - alpha_bar)))
        alpha_bars.append(alpha_bar)
        previous = alpha_bar
    return Schedule(tuple(betas), tuple(alpha_bars), tuple(k1), tuple(k2), tuple(sigmas))


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Diffuse x0 to the timestep of `alpha_bar`: the closed form of the forward chain."""
    return math.sqrt(alpha_bar) * x0 + math.sqrt(1 - alpha_bar) * noise


def reverse_step(x0: Tensor, x_t: Tensor, timestep: int, schedule: Schedule) -> Tensor:
    """Posterior mean of x_{t-1} given the predicted x0: no noise, no clipping (spec 1.4)."""
    return schedule.k1[timestep] * x0 + schedule.k2[timestep] * x_t


def ancestral_step(
    predicted_noise: Tensor,
    x_t: Tensor,
    step_noise: Tensor | None,
    timestep: int,
    schedule: Schedule,
) -> Tensor:
    """Sample x_{t-1} given the predicted noise (Ho et al. 2020, Alg. 2; the paper of spec 1.7).

    `step_noise` is standard normal, and None at timestep 0, where nothing is added. Of the two sigmas
    that Ho et al. name we take the posterior's; the paper does not say.
    """
    beta, alpha_bar = schedule.betas[timestep], schedule.alpha_bars[timestep]
    mean = (x_t - beta / math.sqrt(1 - alpha_bar) * predicted_noise) / math.sqrt(1 - beta)
    return mean if step_noise is None else mean + schedule.sigmas[timestep] * step_noise
