"""Stage II: train the denoiser that restores the semantic prior (spec 2.2).

Shapes: B batch, N prior tokens, D semantic prior width, H W pixels.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_rgb
from models.devices import sent
from models.diffusion import q_sample
from models.dspfusion.config import Stage2Config
from models.dspfusion.denoiser import (
    Denoiser,
    PriorBlend,
    join_condition,
    num_noises,
    prior_schedule,
    restore_prior,
    split_noises,
)
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.loss import fusion_loss
from models.dspfusion.priors import degradation_encoder, semantic_encoder
from models.layers.blocks import split_pair
from models.system import Batch, Weights

# Set apart from the seeds of the noise.
_OF_LIGHTENING = 0x5EED


class Stage2(nn.Module):
    """The Stage II objective: L_II = L_fus + weight · mean |p_gt - p| (spec 2.2).

    Without fusion weights it is the second term alone, and nothing is fused. A blend of the prior has a
    second term like that one. Everything but the denoiser
    is frozen and stays in eval mode; the gradient of the fusion loss still flows through the fusion
    network to the prior and through all T reverse steps. Images are [0, 1], H and W multiples of 8 and
    at least 16; `vi_*` B×3×H×W, `ir_*` B×1×H×W, `seed` B int64.
    """

    FIELDS: tuple[str, ...] = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "seed")
    # Generators of the CPU read it: from a GPU, every step would wait for it.
    ON_CPU: tuple[str, ...] = ("seed",)

    def __init__(self, config: Stage2Config) -> None:
        super().__init__()
        self.fusion = FusionNetwork(config.model)
        self.degradation = degradation_encoder(config.model)
        self.semantic = semantic_encoder(config.model)
        self.denoiser = Denoiser(config.model)
        self.blend = PriorBlend(config.model) if config.model.prior_blend == "learned" else None
        self.lightened_share = config.lightened_share
        weights = config.fusion_weights
        self.fusion_loss = fusion_loss(weights, config.content_target) if weights else None
        self.diffusion_weight = config.diffusion_weight
        self.schedule = prior_schedule(config.model)
        self.noise_shape = (num_noises(config.model), *self.denoiser.prior_shape)
        for network in self._frozen():
            network.requires_grad_(False)
        self.train()

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate: the denoiser and its blend."""
        blend = self.blend.parameters() if self.blend else ()
        return [(1.0, [*self.denoiser.parameters(), *blend])]

    def load_stage1(self, state_dict: Weights) -> None:
        """Load the weights of a Stage I objective, strictly; they are frozen already."""
        names = ("fusion", "degradation", "semantic")
        unknown = [key for key in state_dict if key.split(".")[0] not in names]
        if unknown:
            raise ValueError(f"not a Stage I state dict: it has {unknown[0]!r}")
        for name, network in zip(names, self._frozen(), strict=True):
            prefix = f"{name}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            )

    def train(self, mode: bool = True) -> Self:
        """Switch the denoiser's mode; the frozen networks stay in eval mode."""
        super().train(mode)
        for network in self._frozen():
            network.eval()
        return self

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every weighted term detached; all steps are alike."""
        infrared = {name: to_rgb(batch[name]) for name in ("ir_lq", "ir_gt")}
        noises = seeded_noise(batch["seed"], self.noise_shape).transpose(0, 1)
        noise, step_noise = split_noises(sent(noises, batch["vi_lq"].device))
        batch = {**batch, **infrared}
        if self.lightened_share:
            batch |= lightened(batch, self.lightened_share)
        return self.losses(batch, noise, step_noise)

    def losses(
        self, batch: Batch, noise: Tensor, step_noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return what `forward` does, for three-channel infrared images and given noise.

        `noise` is B×N×D; `step_noise` is (T-1)×B×N×D with a denoiser that predicts the noise.
        """
        degradation_prior, semantic_lq, target = self._frozen_priors(batch)
        x_T = q_sample(target, noise, self.schedule.alpha_bars[-1])  # B N D
        condition = join_condition(semantic_lq, degradation_prior)
        prior = restore_prior(
            self.denoiser, x_T, condition, schedule=self.schedule, step_noise=step_noise
        )
        diffusion = self.diffusion_weight * F.l1_loss(prior.float(), target.float())
        terms = {"diffusion": diffusion}
        loss = diffusion
        if self.blend:
            # By itself: while the denoiser knows little, a blend that both learned through would take
            # nothing of it, and so it would never learn more.
            blended = self.blend(prior.detach(), condition)
            terms["blend"] = self.diffusion_weight * F.l1_loss(blended.float(), target.float())
            loss = loss + terms["blend"]
            prior = self.blend(prior, condition)
        if self.fusion_loss:
            fused = self.fusion(batch["ir_lq"], batch["vi_lq"], degradation_prior, prior)
            of_fusion = self.fusion_loss(fused, batch["vi_gt"], batch["ir_gt"])
            fusion = torch.stack(list(of_fusion.values())).sum()
            terms = of_fusion | {"fusion": fusion} | terms
            loss = loss + fusion
        detached = {name: term.detach() for name, term in terms.items()}
        return {"loss": loss, **detached}

    @torch.no_grad()
    def _frozen_priors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the degradation priors 2B×N×E and the semantic priors of both qualities."""
        ir, vi = batch["ir_lq"], batch["vi_lq"]
        low = torch.cat([ir, vi], dim=1)
        clean = torch.cat([batch["ir_gt"], batch["vi_gt"]], dim=1)
        semantic_lq, semantic_gt = split_pair(self.semantic(torch.cat([low, clean])))
        return self.degradation(torch.cat([ir, vi])), semantic_lq, semantic_gt

    def _frozen(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.fusion, self.degradation, self.semantic


def lightened(batch: Batch, share: float) -> dict[str, Tensor]:
    """Take a random part of its degradation from a share of the pairs, and all of it from half of those.

    Each pair is mixed with its clean one, both cameras alike: `vi_lq` and `ir_lq`, B×C×H×W. Which pairs
    and how much belongs to the sample (`seed`), as the noise does.
    """
    draws = seeded_uniform(batch["seed"])  # B 2
    clean_part = (2 * draws[:, 1]).clamp(max=1) * (draws[:, 0] < share)
    clean_part = sent(clean_part, batch["vi_lq"].device)[:, None, None, None]
    return {
        f"{camera}_lq": torch.lerp(batch[f"{camera}_lq"], batch[f"{camera}_gt"], clean_part)
        for camera in ("vi", "ir")
    }


def seeded_uniform(seeds: Tensor) -> Tensor:
    """Draw two numbers in [0, 1) per seed, B×2, which are not those that its noise begins with."""
    generators = (torch.Generator().manual_seed(seed ^ _OF_LIGHTENING) for seed in seeds.tolist())
    return torch.stack([torch.rand(2, generator=generator) for generator in generators])


def seeded_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw one standard normal array per seed, B×shape, on the CPU.

    Each sample has its own generator, so that its noise does not depend on the batch it is in,
    nor on the device.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()
    ]
    return torch.stack(draws)
