"""Training in a folder of golden vectors: losses, learning rates, a step of each stage (spec 5.4, 5.6).

Shapes: B batch, K images of a group, H W pixels, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_gray
from models.dspfusion.config import FusionWeights, Stage1Config, Stage2Config
from models.dspfusion.parity.fill import TOLERANCE, noise
from models.dspfusion.parity.networks import FilledModel
from models.dspfusion.released import OFFICIAL_FILES, Network, official_name
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from models.golden import (
    Arrays,
    TensorComparison,
    compare_tensor,
    compare_values,
    known_arrays,
    shape4,
)
from models.losses import FusionLoss, Ssim, group_contrastive_loss
from models.schedules import constant_then_cosine

# Spec 5.6, relative.
LOSS_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3
# The first step of AdamW moves each weight by nearly lr = 2e-4 whatever its gradient; only vanishing
# gradients, whose sign is rounding, may differ by a part of that.
STEP_TOLERANCE = 1e-5

# AdamW and its schedule in the authors' code (spec 2.3).
_NUM_STEPS, _CONSTANT_STEPS, _RATE, _LEAST_RATE = 500_000, 300_000, 2e-4, 1e-6
_BETAS, _EPS, _WEIGHT_DECAY = (0.9, 0.999), 1e-8, 1e-4

# Our names of the loss terms → the golden files'.
_TERMS = {
    "intensity_max": "loss_intensity_max",
    "intensity_consistency": "loss_intensity_consist",
    "color": "loss_color",
    "gradient": "loss_grad",
    "ssim": "loss_ssim",
    "fusion": "loss_fusion",
    "contrastive": "l_contra",
    "diffusion": "l_pix_diff",
}


def _learning_rate(step: int) -> float:
    return constant_then_cosine(
        step,
        num_steps=_NUM_STEPS,
        constant_steps=_CONSTANT_STEPS,
        rate=_RATE,
        least=_LEAST_RATE,
    )


def check_losses(filled: FilledModel, arrays: Arrays) -> Iterator[TensorComparison]:
    """Every loss term and the learning rate; the batch's size is that of the golden gradient."""
    if "grad_wrt_fused" not in arrays:
        raise ValueError("losses: lacks the array 'grad_wrt_fused'")
    shape = shape4(arrays["grad_wrt_fused"])
    fused = filled.image("fused", shape).requires_grad_()
    vi, ir = filled.image("gt_vi", shape), filled.image("gt_ir", shape)
    terms = FusionLoss(**dict(FusionWeights()))(fused, vi, ir)
    terms["fusion"] = torch.stack(list(terms.values())).sum()
    (gradient,) = torch.autograd.grad(terms["fusion"], fused)
    ssim = Ssim()
    values: dict[str, Any] = {f"fusion/{_TERMS[k]}": float(v.detach()) for k, v in terms.items()}
    values |= {
        "raw/ssim_loss_rgb_w13": float(1 - ssim(vi, fused.detach())),
        "raw/ssim_loss_gray_w13": float(1 - ssim(to_gray(ir), to_gray(fused.detach()))),
        "contrastive": _contrastive(filled, shape[0]),
        "diff_l1_times10": float(10 * F.l1_loss(*_two_noises(filled, shape[0]))),
        "lr_iters": arrays.get("lr_iters", np.array([], np.int64)),
        "lr_values": [_learning_rate(int(i)) for i in arrays.get("lr_iters", ())],
    }
    for key, expected in known_arrays("losses", arrays, {**values, "grad_wrt_fused": gradient}):
        if key == "grad_wrt_fused":
            tolerance = NORM_TOLERANCE * float(np.abs(expected).max())
            yield compare_tensor("losses", key, gradient, expected, tolerance)
        else:
            yield compare_values("losses", key, values[key], expected, LOSS_TOLERANCE)


def _two_noises(filled: FilledModel, size: int) -> tuple[Tensor, Tensor]:
    return filled.noise("noise", size), filled.noise("noise2", size)


def _contrastive(filled: FilledModel, size: int) -> float:
    """The contrastive loss of the embeddings that spec 5.4 names."""
    width = filled.config.degradation_prior_width

    def embedding(name: str) -> Tensor:
        return noise(f"emb:{name}", (size, width), filled.constants)

    def group(name: str, count: int) -> Tensor:
        return torch.stack([embedding(f"{name}{k}") for k in range(count)], dim=1)  # B K D

    anchors = embedding("anchor_ir"), embedding("anchor_vi")
    positives = group("pos_ir", 3), group("pos_vi", 3)
    return float(group_contrastive_loss(anchors, positives, group("neg", 6), temperature=0.1))


def check_stage1(filled: FilledModel, arrays: Arrays) -> Iterator[TensorComparison]:
    """One Stage I step: losses, gradients, and the weights after it."""
    shape = _step_shape("stage1_step", arrays)
    objective = Stage1(Stage1Config(model=filled.config))
    weights = filled.fuser.state_dict()
    objective.load_state_dict({k: v for k, v in weights.items() if not k.startswith("denoiser.")})
    groups = {
        "ir_pos": _packed(filled, "pos_ir", 3, shape),
        "vi_pos": _packed(filled, "pos_vi", 3, shape),
        "neg": _packed(filled, "neg", 6, shape),
    }
    batch = {**_step_images(filled, shape), **groups}
    networks: tuple[Network, ...] = ("fusion", "degradation", "semantic")
    step = Step("stage1_step", arrays, objective, networks)
    return step.check(lambda: objective.losses(batch))


def check_stage2(filled: FilledModel, arrays: Arrays) -> Iterator[TensorComparison]:
    """One Stage II step: only the denoiser has gradients."""
    shape = _step_shape("stage2_step", arrays)
    objective = Stage2(Stage2Config(model=filled.config))
    objective.load_state_dict(filled.fuser.state_dict())
    batch, given = _step_images(filled, shape), filled.noise("noise", shape[0])
    step = Step("stage2_step", arrays, objective, ("denoiser",))
    return step.check(lambda: objective.losses(batch, given))


def _step_shape(name: str, arrays: Arrays) -> tuple[int, int, int, int]:
    """Shape of a step's images: its `out_fusion` keeps every second pixel (spec 5.4)."""
    if "out_fusion" not in arrays:
        raise ValueError(f"{name}: lacks the array 'out_fusion', which gives the images' size")
    size, channels, height, width = shape4(arrays["out_fusion"])
    return size, channels, 2 * height, 2 * width


def _step_images(filled: FilledModel, shape: tuple[int, int, int, int]) -> dict[str, Tensor]:
    """The degraded and clean pair of a step; infrared has three different channels there."""
    names = {"ir_lq": "ir", "vi_lq": "vi", "ir_gt": "gt_ir", "vi_gt": "gt_vi"}
    return {ours: filled.image(theirs, shape) for ours, theirs in names.items()}


def _packed(filled: FilledModel, name: str, count: int, shape: tuple[int, int, int, int]) -> Tensor:
    """A group of images, which the rule draws as channels: B×count×3×H×W."""
    size, _, height, width = shape
    return filled.image(name, (size, 3 * count, height, width)).unflatten(1, (count, 3))


@dataclass(frozen=True)
class Step:
    """One training step of an objective, whose `networks` learn."""

    name: str
    arrays: Arrays
    objective: nn.Module
    networks: tuple[Network, ...]

    def check(self, losses: Callable[[], dict[str, Tensor]]) -> Iterator[TensorComparison]:
        """Take the step with `losses`; compare the terms, the gradients and the new weights."""
        seen: dict[str, Tensor] = {}
        handle = self.objective.get_submodule("fusion").register_forward_hook(
            lambda _module, _inputs, fused: seen.update(fused=fused)
        )
        terms = losses()
        handle.remove()
        terms["loss"].backward()
        parameters = self._parameters()
        gradients = {key: p.grad.clone() for key, p in parameters.items() if p.grad is not None}
        total = nn.utils.clip_grad_norm_(parameters.values(), self._value("clip_max_norm"))
        _update(parameters)
        ours: dict[str, Any] = {
            "out_fusion": seen["fused"][..., ::2, ::2],
            "total_grad_norm_preclip": float(total),
            "grad_norm_names": None,
            "grad_norm_preclip": None,
            "clip_max_norm": None,
            **{f"loss/{_TERMS[k]}": float(v) for k, v in terms.items() if k in _TERMS},
            **{f"grad/{key}": gradient for key, gradient in gradients.items()},
            **{f"after_step/{key}": parameter for key, parameter in parameters.items()},
        }
        yield self._norms(gradients)
        for key, expected in known_arrays(self.name, self.arrays, ours):
            if ours[key] is not None:
                yield self._compare(key, ours[key], expected)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """What learns, under its official file and key."""
        return {
            f"{OFFICIAL_FILES[network]}/{official_name(network, key)}": parameter
            for network in self.networks
            for key, parameter in self.objective.get_submodule(network).named_parameters()
        }

    def _norms(self, gradients: Mapping[str, Tensor]) -> TensorComparison:
        """Norms of all gradients; a vanishing one is compared on the scale of the whole."""
        names = [str(name) for name in self.arrays["grad_norm_names"]]
        if set(names) != gradients.keys():
            odd = sorted(set(names) ^ gradients.keys())[0]
            raise ValueError(f"{self.name}: only one side has a gradient of {odd!r}")
        found = [float(gradients[name].norm()) for name in names]
        expected = self.arrays["grad_norm_preclip"]
        floor = 1e-3 * self._value("total_grad_norm_preclip")
        return compare_values(
            self.name, "grad_norm_preclip", found, expected, NORM_TOLERANCE, floor=floor
        )

    def _value(self, key: str) -> float:
        if key not in self.arrays:
            raise ValueError(f"{self.name}: lacks the array {key!r}")
        return float(self.arrays[key])

    def _compare(self, key: str, ours: Any, expected: np.ndarray) -> TensorComparison:
        match key.split("/")[0]:
            case "loss":
                return compare_values(self.name, key, ours, expected, LOSS_TOLERANCE)
            case "total_grad_norm_preclip":
                return compare_values(self.name, key, ours, expected, NORM_TOLERANCE)
            case "grad":
                tolerance = NORM_TOLERANCE * float(np.abs(expected).max())
                return compare_tensor(self.name, key, ours, expected, tolerance)
            case "after_step":
                return compare_tensor(self.name, key, ours, expected, STEP_TOLERANCE)
            case _:
                return compare_tensor(self.name, key, ours, expected, TOLERANCE)


def _update(parameters: Mapping[str, nn.Parameter]) -> None:
    """One step of the training's own optimiser with its default settings."""
    torch.optim.AdamW(
        parameters.values(),
        lr=_learning_rate(0),
        betas=_BETAS,
        eps=_EPS,
        weight_decay=_WEIGHT_DECAY,
    ).step()
