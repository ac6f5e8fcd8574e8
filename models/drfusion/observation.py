"""What is observed, and the joint observation correction of the chain's estimates (spec 4.4, 4.5).

Shapes: B batch, H W pixels, h w frequencies; two sources, infrared first.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.drfusion.config import Correction
from models.drfusion.operators import Operators

_FLOOR = 1e-12


@dataclass(frozen=True)
class Observation:
    """Two pictures y, their operators A and the noise that is reckoned with.

    `pictures` and `inverse` (A† y) are B×2×H×W, `sigma_y` is B×2×1×1 in [0, 1]. `by_gradients`: a
    residual is inverted by conjugate gradients, not by the cascade of pseudo-inverses.
    """

    pictures: Tensor
    inverse: Tensor
    sigma_y: Tensor
    operators: Operators
    by_gradients: bool = False

    def residual_spectrum(self, sources: Tensor) -> Tensor:
        """Spectrum of r = A† (A x - y), how far the sources are from what was observed."""
        operators = self.operators
        error = operators.apply(sources) - self.pictures
        if self.by_gradients:
            return operators.spectrum(operators.solve(error))
        means = operators.rows @ error @ operators.columns.mT
        return operators.spectrum(means) / operators.restorable_response()


class StepScale(NamedTuple):
    """Of a step: the posterior's deviation σ_t, and the weight a_t of the estimate in x_{t-1}."""

    sigma: Tensor
    weight: Tensor


def observe(
    pictures: Tensor,
    numbers: Tensor,
    operators: Operators,
    *,
    sigma_y: float | None,
    by_gradients: bool = False,
) -> Observation:
    """Pictures B×2×H×W with their operators; `numbers` B×2×3 hold the noise unless `sigma_y` does."""
    noise = numbers[..., 0, None, None]
    if sigma_y is not None:
        noise = torch.full_like(noise, sigma_y)
    return Observation(pictures, operators.invert(pictures), noise, operators, by_gradients)


def step_scale(alpha_bar: Tensor, previous: Tensor) -> StepScale:
    """σ_t and a_t from ᾱ_t and ᾱ_{t-1} (spec 4.4)."""
    beta = 1 - alpha_bar / previous.clamp(min=_FLOOR)
    rest = (1 - alpha_bar).clamp(min=_FLOOR)
    variance = beta * (1 - previous) / rest
    return StepScale(variance.clamp(min=_FLOOR).sqrt(), previous.sqrt() * beta / rest)


def correction_scale(scale: StepScale, sigma_y: Tensor) -> Tensor:
    """λ_t: how much of a correction a step can take without adding noise (spec 4.4).

    The gradient reaches the schedule through it where λ_t < 1.
    """
    noise = scale.weight * sigma_y
    return torch.where(
        scale.sigma >= noise, torch.ones_like(noise), scale.sigma / noise.clamp(min=_FLOOR)
    )


def correct(
    estimate: Tensor,
    weight: Tensor,
    observation: Observation,
    scale: StepScale,
    *,
    form: Correction,
) -> Tensor:
    """Move the estimate B×3×H×W towards what was observed; `weight` B×1×H×W is the infrared's.

    λ_i is each source's, λ_f the smaller of the two (spec 5, v).
    """
    if form == "off":
        return estimate
    lambdas = correction_scale(scale, observation.sigma_y)  # B 2 1 1
    lambda_fused = lambdas.amin(dim=1, keepdim=True)  # B 1 1 1
    # The blur's inverse amplifies noise by 1 / |H|: so λ is a frequency's own (spec 5, iii).
    amplified = observation.sigma_y / observation.operators.restorable_response().abs()
    spectral = correction_scale(scale, amplified)  # B 2 h w
    return corrected(estimate, weight, observation, (spectral, lambda_fused), form=form)


def corrected(
    estimate: Tensor,
    weight: Tensor,
    observation: Observation,
    lambdas: tuple[Tensor, Tensor],
    *,
    form: Correction,
) -> Tensor:
    """The correction with given λ: of the sources, B×2×h×w or 1, and of the fused picture, B×1×1×1."""
    of_sources, of_fused = lambdas
    sources, fused = estimate[:, :2], estimate[:, 2:]
    weights = torch.cat([weight, 1 - weight], dim=1)  # B 2 H W
    operators, shape = observation.operators, sources.shape
    residual = observation.residual_spectrum(sources)
    moved = sources - operators.from_spectrum(residual * of_sources, shape)
    # Paper, Eq. 11-14: Â†(ÂX - y) of the fused picture is W1 r1 + W2 r2 + f - W1 a - W2 b.
    kept = operators.from_spectrum(residual * torch.minimum(of_sources, of_fused), shape)
    change = (weights * kept).sum(1, keepdim=True) + of_fused * (
        fused - (weights * sources).sum(1, keepdim=True)
    )
    if form == "released":
        # Spec 4.5: the authors take the sources that are corrected already, and the observations.
        seen = observation.inverse
        theirs = of_fused * (fused + (weights * (moved - 2 * seen)).sum(1, keepdim=True))
        change = torch.where(operators.is_identity, theirs, change)
    return torch.cat([moved, fused - change], dim=1)
