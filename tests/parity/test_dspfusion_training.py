"""Our diffusion constants, losses and training steps against the published code (spec 5)."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_gray
from models.diffusion import sqrt_linear_schedule
from models.dspfusion.config import FusionWeights, Stage1Config, Stage2Config
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from models.losses import FusionLoss, Ssim, group_contrastive_loss
from tests.parity import golden

pytestmark = golden.needs_golden

# Relative, spec 5.6.
LOSS_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3

# Our names of the fusion terms → the golden files'.
TERMS = {
    "intensity_max": "loss_intensity_max",
    "intensity_consistency": "loss_intensity_consist",
    "color": "loss_color",
    "gradient": "loss_grad",
    "ssim": "loss_ssim",
    "fusion": "loss_fusion",
}

SHAPE = (2, 3, 64, 64)


def test_diffusion_constants():
    expected = golden.load("diffusion_constants")
    schedule = sqrt_linear_schedule(10, beta_start=0.1, beta_end=0.99)
    names = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alpha_bars,
        "posterior_mean_coef1": schedule.k1,
        "posterior_mean_coef2": schedule.k2,
    }
    for name, ours in names.items():
        np.testing.assert_allclose(ours, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_fusion_loss_and_its_gradient():
    expected = golden.load("losses")
    fused = golden.image("fused", SHAPE).requires_grad_()
    vi, ir = golden.image("gt_vi", SHAPE), golden.image("gt_ir", SHAPE)
    terms = FusionLoss(**dict(FusionWeights()))(fused, vi, ir)
    terms["fusion"] = total = torch.stack(list(terms.values())).sum()
    for ours, theirs in TERMS.items():
        value = terms[ours].detach()
        assert float(value) == pytest.approx(float(expected[f"fusion/{theirs}"]), LOSS_TOLERANCE)
    (gradient,) = torch.autograd.grad(total, fused)
    assert golden.worst(gradient, expected["grad_wrt_fused"]) < 1e-6


def test_ssim():
    expected = golden.load("losses")
    fused, vi, ir = (golden.image(name, SHAPE) for name in ("fused", "gt_vi", "gt_ir"))
    ssim = Ssim()
    in_color = float(1 - ssim(vi, fused))
    in_gray = float(1 - ssim(to_gray(ir), to_gray(fused)))
    assert in_color == pytest.approx(float(expected["raw/ssim_loss_rgb_w13"]), LOSS_TOLERANCE)
    assert in_gray == pytest.approx(float(expected["raw/ssim_loss_gray_w13"]), LOSS_TOLERANCE)


def test_contrastive_and_prior_losses():
    expected = golden.load("losses")
    names = ("anchor_ir", "anchor_vi", *(f"pos_{m}{k}" for m in ("ir", "vi") for k in range(3)))
    names += tuple(f"neg{k}" for k in range(6))
    anchor_ir, anchor_vi, *rest = (golden.noise(f"emb:{name}", (2, 128)) for name in names)
    ir_pos, vi_pos, neg = (torch.stack(x, dim=1) for x in (rest[:3], rest[3:6], rest[6:]))
    loss = group_contrastive_loss((anchor_ir, anchor_vi), (ir_pos, vi_pos), neg, temperature=0.1)
    assert float(loss) == pytest.approx(float(expected["contrastive"]), LOSS_TOLERANCE)
    shape = (2, 16, 256)
    l1 = 10 * F.l1_loss(golden.noise("noise", shape), golden.noise("noise2", shape))
    assert float(l1) == pytest.approx(float(expected["diff_l1_times10"]), LOSS_TOLERANCE)


def low_and_clean() -> dict[str, Tensor]:
    """The batch of both golden steps; infrared has three different channels there."""
    names = {"ir_lq": "ir", "vi_lq": "vi", "ir_gt": "gt_ir", "vi_gt": "gt_vi"}
    return {ours: golden.image(theirs, SHAPE) for ours, theirs in names.items()}


def check_step(
    objective: nn.Module, losses: dict[str, Tensor], networks: dict[Any, nn.Module], file: str
) -> None:
    expected = golden.load(file)
    for ours, theirs in TERMS.items():
        value = float(losses[ours])
        assert value == pytest.approx(float(expected[f"loss/{theirs}"]), LOSS_TOLERANCE), ours
    losses["loss"].backward()
    norms = golden.gradient_norms(networks)
    assert set(norms) == set(expected["grad_norm_names"])
    # Tensors with a vanishing gradient are compared on the scale of the whole.
    floor = 1e-6 * float(expected["total_grad_norm_preclip"])
    for name, norm in zip(expected["grad_norm_names"], expected["grad_norm_preclip"], strict=True):
        assert norms[name] == pytest.approx(float(norm), rel=NORM_TOLERANCE, abs=floor), name
    total = torch.linalg.vector_norm(torch.tensor(list(norms.values())))
    assert float(total) == pytest.approx(float(expected["total_grad_norm_preclip"]), NORM_TOLERANCE)
    trained = sum(p.grad is not None for p in objective.parameters())
    assert trained == len(norms)


def test_stage1_step():
    objective = Stage1(Stage1Config())
    weights = golden.filled_fuser().state_dict()
    objective.load_state_dict({k: v for k, v in weights.items() if not k.startswith("denoiser.")})
    groups = {
        "ir_pos": golden.image("pos_ir", (2, 9, 64, 64)),
        "vi_pos": golden.image("pos_vi", (2, 9, 64, 64)),
        "neg": golden.image("neg", (2, 18, 64, 64)),
    }
    groups = {name: packed.unflatten(1, (-1, 3)) for name, packed in groups.items()}
    losses = objective.losses({**low_and_clean(), **groups})
    contrastive = float(golden.load("stage1_step")["loss/l_contra"])
    assert float(losses["contrastive"]) == pytest.approx(contrastive, LOSS_TOLERANCE)
    networks = {n: getattr(objective, n) for n in ("fusion", "degradation", "semantic")}
    check_step(objective, losses, networks, "stage1_step")


def test_stage2_step():
    objective = Stage2(Stage2Config())
    objective.load_state_dict(golden.filled_fuser().state_dict())
    losses = objective.losses(low_and_clean(), golden.noise("noise", (2, 16, 256)))
    diffusion = float(golden.load("stage2_step")["loss/l_pix_diff"])
    assert float(losses["diffusion"]) == pytest.approx(diffusion, LOSS_TOLERANCE)
    check_step(objective, losses, {"denoiser": objective.denoiser}, "stage2_step")
