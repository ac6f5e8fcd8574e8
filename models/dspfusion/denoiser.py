"""The denoiser of the semantic prior, and the reverse chain it drives.

Shapes: B batch, N prior tokens, D semantic prior width, E condition width, W hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.diffusion import Schedule, ancestral_step, reverse_step, sqrt_linear_schedule
from models.dspfusion.config import DSPFusionConfig
from models.layers.blocks import TokenMixer, split_pair

_MIXER_EXPANSION = 2
_LEAKY_SLOPE = 0.2
_INITIAL_TIME_SCALE = 1e-3
_BLEND_WIDTH = 32
_INITIAL_BLEND = 2.0


class Denoiser(nn.Module):
    """Predict the clean semantic prior x0 from x_t, the condition and the timestep (spec 1.4).

    Or the noise in x_t, as the paper does: then without the last GELU, which has no negative values.
    The first layer reads [x_t, theta·t, condition]. We apply its three column blocks apart: the
    condition's share does not change along the chain (`encode_condition`), and the time's share
    is one vector.
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.prior_shape = (config.num_tokens, config.semantic_prior_width)
        self.predicts = config.denoiser_predicts
        prior_width = config.semantic_prior_width
        condition_width = config.semantic_prior_width + 2 * config.degradation_prior_width
        self.time_scale = nn.Parameter(torch.full((1,), _INITIAL_TIME_SCALE))
        self.linear_in = nn.Linear(2 * prior_width + condition_width, config.denoiser_width)
        self.mixers = nn.ModuleList(
            TokenMixer(config.num_tokens, config.denoiser_width, expansion=_MIXER_EXPANSION)
            for _ in range(config.num_denoiser_blocks)
        )
        self.linear_out = nn.Linear(config.denoiser_width, prior_width)

    def encode_condition(self, condition: Tensor) -> Tensor:
        """Return the first layer's share of the condition B×N×E, bias included, B×N×W."""
        _, _, weight = self._weight_blocks()
        return F.linear(condition, weight, self.linear_in.bias)

    def forward(self, x_t: Tensor, encoded_condition: Tensor, timestep: int) -> Tensor:
        """Return the predicted x0 or noise, B×N×D; `timestep` runs from 0 (least noise) to T-1."""
        x_weight, time_weight, _ = self._weight_blocks()
        time = self.time_scale * timestep * time_weight.sum(dim=1)  # W
        h = F.linear(x_t, x_weight) + encoded_condition + time  # B N W
        h = F.leaky_relu(h, _LEAKY_SLOPE)
        for mixer in self.mixers:
            h = F.gelu(mixer(h))
        out = self.linear_out(h)
        return F.gelu(out) if self.predicts == "x0" else out

    def _weight_blocks(self) -> tuple[Tensor, ...]:
        """Return the columns of the first layer that read x_t, the time, the condition."""
        width = self.prior_shape[1]
        return self.linear_in.weight.tensor_split((width, 2 * width), dim=1)


class PriorBlend(nn.Module):
    """Blend the restored prior with the degraded pair's own, by what there is to restore.

    Ours, not the paper's: a restored prior has the denoiser's error however little was wrong with the
    pair. A token's share of the restored prior is read from the condition and from what the denoiser
    would change (README, "First, do no harm").
    """

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        width = 2 * config.semantic_prior_width + 2 * config.degradation_prior_width
        self.linear_in = nn.Linear(width, _BLEND_WIDTH)
        self.linear_out = nn.Linear(_BLEND_WIDTH, 1)
        # At first nearly all is restored, as without a blend.
        nn.init.constant_(self.linear_out.bias, _INITIAL_BLEND)

    def forward(self, restored: Tensor, condition: Tensor) -> Tensor:
        """Blend B×N×D with the first D of the condition's B×N×E, to B×N×D."""
        own = condition[..., : restored.shape[-1]]
        change = restored - own
        hidden = F.gelu(self.linear_in(torch.cat([condition, change], dim=-1)))
        return own + torch.sigmoid(self.linear_out(hidden)) * change


def prior_schedule(config: DSPFusionConfig) -> Schedule:
    """Return the diffusion constants of a configuration (spec 1.4)."""
    return sqrt_linear_schedule(
        config.num_steps, beta_start=config.beta_start, beta_end=config.beta_end
    )


def join_condition(semantic_prior: Tensor, degradation_prior: Tensor) -> Tensor:
    """Join B×N×D and the 2B degradation priors, infrared first, as B×N×E (spec 1.4)."""
    return torch.cat([semantic_prior, *split_pair(degradation_prior)], dim=-1)


def restore_prior(
    denoiser: Denoiser,
    x_T: Tensor,
    condition: Tensor,
    *,
    schedule: Schedule,
    step_noise: Tensor | None = None,
) -> Tensor:
    """Run all T reverse steps from x_T, B×N×D to B×N×D; every step stays in the graph.

    `step_noise`, (T-1)×B×N×D or (T-1)×1×N×D, is what timesteps 1 to T-1 add with a denoiser that
    predicts the noise, and None with any other.
    """
    assert (step_noise is not None) == (denoiser.predicts == "noise"), denoiser.predicts
    encoded = denoiser.encode_condition(condition)
    x_t = x_T
    for timestep in reversed(range(schedule.num_steps)):
        predicted = denoiser(x_t, encoded, timestep)
        if step_noise is None:
            x_t = reverse_step(predicted, x_t, timestep, schedule)
        else:
            added = step_noise[timestep - 1] if timestep else None
            x_t = ancestral_step(predicted, x_t, added, timestep, schedule)
    return x_t


def num_noises(config: DSPFusionConfig) -> int:
    """How many noises N×D the reverse chain takes: the one it starts from, and those it adds."""
    return config.num_steps if config.denoiser_predicts == "noise" else 1


def split_noises(noises: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split `num_noises`×B×N×D into x_T's B×N×D and `step_noise`, or None where nothing is added."""
    return noises[0], noises[1:] if len(noises) > 1 else None
