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


class Stage2(nn.Module):
    """The Stage II objective: L_II = L_fus + weight · mean |p_gt - p| (spec 2.2).

    Without fusion weights it is the second term alone, and nothing is fused. Everything but the denoiser
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
        weights = config.fusion_weights
        self.fusion_loss = fusion_loss(weights, config.content_target) if weights else None
        self.diffusion_weight = config.diffusion_weight
        self.schedule = prior_schedule(config.model)
        self.noise_shape = (num_noises(config.model), *self.denoiser.prior_shape)
        for network in self._frozen():
            network.requires_grad_(False)
        self.train()

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate: the denoiser."""
        return [(1.0, list(self.denoiser.parameters()))]

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
        return self.losses({**batch, **infrared}, noise, step_noise)

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
        if self.fusion_loss:
            fused = self.fusion(batch["ir_lq"], batch["vi_lq"], degradation_prior, prior)
            of_fusion = self.fusion_loss(fused, batch["vi_gt"], batch["ir_gt"])
            fusion = torch.stack(list(of_fusion.values())).sum()
            terms = of_fusion | {"fusion": fusion} | terms
            loss = fusion + diffusion
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


def seeded_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw one standard normal array per seed, B×shape, on the CPU.

    Each sample has its own generator, so that its noise does not depend on the batch it is in,
    nor on the device.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()
    ]
    return torch.stack(draws)
