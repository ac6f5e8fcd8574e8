"""L_unified: pull the latents of every degradation to those of the clean picture (spec 4.1).

Shapes: B batch, C channels of a level, H W pixels of a level, T tasks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.lure.networks import Latents

# Weights of the four levels, the first first (spec 4.1).
LEVEL_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
# Below the root: a channel without variance has no gradient above it.
_MIN_VARIANCE = 1e-8


class Moments(NamedTuple):
    """Mean and standard deviation of each channel, …×C."""

    mean: Tensor
    std: Tensor


def normalise(z: Tensor) -> Tensor:
    """n(z): normalise each pixel of B×C×H×W over its channels, without affine; as B×H×W×C."""
    return F.layer_norm(z.permute(0, 2, 3, 1), z.shape[1:2])


def alignment_loss(latents: Latents, targets: Latents) -> Tensor:
    """Σ_k ω_k |n(z_k) − n(z*_k)|₁, as means over pixels and channels."""
    gaps = [F.l1_loss(normalise(z), normalise(t)) for z, t in zip(latents, targets, strict=True)]
    return _weigh(gaps)


def moments_by_task(z: Tensor, task: Tensor, num_tasks: int) -> Moments:
    """Moments T×C of each task's pictures over batch and space; without meaning where there are none."""
    member = F.one_hot(task, num_tasks).to(z.dtype).t()  # T B
    share = member / member.sum(dim=1, keepdim=True).clamp_min(1)
    mean = share @ z.mean(dim=(2, 3))  # T C
    variance = share @ z.square().mean(dim=(2, 3)) - mean.square()
    return Moments(mean, variance.clamp_min(_MIN_VARIANCE).sqrt())


def statistics_loss(
    latents: Latents, task: Tensor, running: Sequence[Moments], num_tasks: int
) -> Tensor:
    """Σ_k ω_k (|μ_τ − μ_p|² + |s_τ − s_p|²), the mean over pictures and channels.

    `running` are the moments C of clean pictures at the four levels.
    """
    gaps = []
    for z, clean in zip(latents, running, strict=True):
        own = moments_by_task(z, task, num_tasks)
        mean_gap, std_gap = (own.mean - clean.mean).square(), (own.std - clean.std).square()
        gaps.append((mean_gap + std_gap)[task].mean())
    return _weigh(gaps)


def _weigh(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * term for w, term in zip(LEVEL_WEIGHTS, terms, strict=True)]).sum()


def latent_gap_ratio(latents: Latents, clean: Latents) -> Tensor:
    """Distance to one's own clean picture over that of the clean pictures to each other (spec 7, i).

    Means over pixels, channels and levels of B >= 2 pictures. Far above the ratio of a trained model is
    1: degradation moves a picture in the latent space as far as another scene does.
    """
    pairs = [(normalise(z), normalise(c)) for z, c in zip(latents, clean, strict=True)]
    own = torch.stack([F.l1_loss(z, c) for z, c in pairs]).mean()
    others = torch.stack([F.l1_loss(c, c.roll(1, dims=0)) for _, c in pairs]).mean()
    return own / others
