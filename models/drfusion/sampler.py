"""The unrolled chain: few deterministic reverse steps without any noise (spec 4).

Shapes: B batch, T steps, H W pixels; a state has three channels: infrared, luma, fused.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.drfusion.config import DRFusionConfig
from models.drfusion.observation import Observation, correct, step_scale
from models.drfusion.unet import UNet

# Where the learned coefficients are cut when they are used: square roots need them inside (0, 1).
_ALPHA_RANGE = (1e-3, 1 - 1e-4)

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One step: state, the network's noise and weight, the estimate before correction, next state."""

    x_in: Tensor
    noise: Tensor
    weight: Tensor
    x0: Tensor
    out: Tensor


class UnrolledChain(nn.Module):
    """The network of all steps and the learned schedule (spec 4).

    The authors' module holds two scalars that it never uses; they are buffers here, so that their
    files can be held whole.
    """

    def __init__(self, config: DRFusionConfig) -> None:
        super().__init__()
        self.correction = config.correction
        self.alpha = nn.Parameter(torch.full((config.num_steps,), 0.5))
        self.unet = UNet(config)
        self.register_buffer("input_help_scale_factor", torch.ones(1))
        self.register_buffer("merge_scale_factor", torch.ones(1))

    def alpha_bars(self) -> Tensor:
        """ᾱ_0 = 1 to ᾱ_T (spec 4.1)."""
        products = self.alpha.clamp(*_ALPHA_RANGE).cumprod(dim=0)
        return torch.cat([products.new_ones(1), products])

    def forward(self, observation: Observation, predict: Predict | None = None) -> Tensor:
        """Infrared, luma and fused picture, B×3×H×W, not clipped."""
        for step in self.steps(observation, predict):
            last = step.out
        return last

    def steps(self, observation: Observation, predict: Predict | None = None) -> Iterator[Step]:
        """The steps T…1 (spec 4.3); `predict` replaces the network's call."""
        bars, predict = self.alpha_bars(), predict or self.unet
        x = bars[-1].sqrt() * initial_state(observation)
        for t in range(len(self.alpha), 0, -1):
            noise, weight = predict(x, t)
            # Spec 4.3: the paper omits the division, the release has it.
            x0 = (x - (1 - bars[t]).sqrt() * noise) / bars[t].sqrt()
            scale = step_scale(bars[t], bars[t - 1])
            kept = correct(x0, weight, observation, scale, form=self.correction)
            # The last step adds no noise back; the root of 0 has no gradient.
            out = kept if t == 1 else renoise(kept, noise, bars[t - 1])
            yield Step(x, noise, weight, x0, out)
            x = out


def renoise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The deterministic DDIM step to ᾱ_{t-1}, η = 0 (spec 4.3)."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def initial_state(observation: Observation) -> Tensor:
    """[A1† y1, A2† y2, their mean], B×3×H×W (spec 4.2)."""
    sources = observation.inverse
    return torch.cat([sources, sources.mean(dim=1, keepdim=True)], dim=1)
