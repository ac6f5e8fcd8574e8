"""A prior that is cut off: neither its encoder nor what it guides is there, and nothing depends on it."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.dspfusion import SYSTEM
from models.dspfusion.config import (
    DSPFusionConfig,
    Stage1Config,
    Stage2Config,
    full,
    fuser_config,
    tiny,
)
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.guidance import SemanticIntegration
from tests.models.samples import training_batch


def cut(**changes: object) -> DSPFusionConfig:
    return DSPFusionConfig(**{**tiny().model_dump(), **changes})


NO_DEGRADATION = {"degradation_prior": False}
NO_SEMANTIC = {"semantic_prior": False}
STAGES = [
    Stage1Config(model=cut(**NO_DEGRADATION)),
    Stage1Config(model=cut(**NO_SEMANTIC)),
    Stage1Config(model=cut(**NO_DEGRADATION, **NO_SEMANTIC)),
    Stage2Config(model=cut(**NO_DEGRADATION)),
]


def objective_of(config: Stage1Config | Stage2Config) -> nn.Module:
    torch.manual_seed(0)
    return SYSTEM.build_objective(config)


def fused_with(config: DSPFusionConfig, *, degradation: float, semantic: float) -> Tensor:
    """What the fusion network makes of one pair with constant priors of full width."""
    torch.manual_seed(0)
    network = FusionNetwork(config)
    ir, vi = torch.rand(2, 1, 3, 16, 24)
    priors = (
        torch.full((2, config.num_tokens, 4 * config.degradation_width), degradation),
        torch.full((1, config.num_tokens, 4 * config.semantic_width), semantic),
    )
    # A constant is nothing to a norm over the width: tilt it.
    tilted = [prior * torch.linspace(-1, 1, prior.shape[-1]) for prior in priors]
    with torch.no_grad():
        return network(ir, vi, *tilted)


@pytest.mark.parametrize(
    ("changes", "reads_degradation", "reads_semantic"),
    [({}, True, True), (NO_DEGRADATION, False, True), (NO_SEMANTIC, True, False)],
)
def test_the_picture_depends_on_no_prior_that_is_cut_off(
    changes, reads_degradation, reads_semantic
):
    config = cut(**changes)
    usual = fused_with(config, degradation=1.0, semantic=1.0)
    for name, reads in (("degradation", reads_degradation), ("semantic", reads_semantic)):
        other = fused_with(config, **{"degradation": 1.0, "semantic": 1.0, name: -1.0})
        assert torch.equal(usual, other) != reads, name


@pytest.mark.parametrize("config", STAGES)
def test_the_rest_trains_and_makes_a_fuser(config):
    objective = objective_of(config)
    batch = training_batch(2, 16)
    losses = objective({name: batch[name] for name in objective.FIELDS}, 0)
    losses["loss"].backward()
    for name, parameter in objective.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved == parameter.requires_grad, name
    assert ("contrastive" in losses) == (
        config.stage == "stage1" and config.model.degradation_prior
    )
    fuser = DSPFusionFuser(fuser_config(config))
    fuser.load_state_dict(objective.state_dict(), strict=True)
    fused = fuser(torch.rand(1, 3, 17, 24), torch.rand(1, 1, 17, 24)).fused
    assert fused.shape == (1, 3, 17, 24)
    vi, ir = torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 96)
    with torch.inference_mode():
        error = (fuser.fuse_tiled(vi, ir, tile_px=64).fused - fuser(vi, ir).fused).abs()
    assert error.mean() < 0.01


def test_what_is_cut_off_is_not_there():
    stage1 = [objective_of(config) for config in STAGES[:3]]
    for objective, without in zip(stage1, ({"dpmm"}, {"spim"}, {"dpmm", "spim"}), strict=True):
        parts = {part for name, _ in objective.named_parameters() for part in name.split(".")}
        assert parts.isdisjoint(without)
        assert ({"dpmm", "spim"} - without) <= parts
    assert stage1[0].FIELDS == ("vi_lq", "vi_gt", "ir_lq", "ir_gt")
    assert not list(stage1[0].degradation.parameters())
    assert not any(isinstance(module, SemanticIntegration) for module in stage1[1].modules())
    assert DSPFusionFuser(cut(**NO_SEMANTIC)).denoiser is None


def test_weights_of_the_full_size():
    """By hand from spec 4: less DPEN, DPMM and type maps; less SPEN, denoiser, SPIM, maps, gates."""

    def count(config: DSPFusionConfig) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in DSPFusionFuser(config).parameters())

    # DPMM a level: token weights, norm, two maps without bias, a 3×3 convolution.
    levels = tuple(zip((32, 64, 128, 256), (16, 4, 4, 4), strict=True))
    dpmm = sum((c * n + n) + 2 * 128 + 128 * 2 * c + 9 * c * c for c, n in levels)
    type_maps = 16_580 + 16_532
    condition = 2 * 128 * 512  # columns of the denoiser's first layer
    without_degradation = full().model_copy(update=NO_DEGRADATION)
    assert count(full()) - count(without_degradation) == 117_193 + dpmm + type_maps + condition

    def spim(c: int) -> int:
        return 2 * c + 2 * 256 + c * c + 256 * 2 * c + c * c + c

    # Four encoders; decoders 3 and 2; decoder 1 and the refinement with twice the channels.
    spims = sum(spim(c) for c in (32, 64, 128, 256, 128, 64, 64, 64))
    maps = 65_860 + 65_812
    gates = sum((n + 1) + (256 + 1) * 2 * c for c, n in levels)
    without_semantic = full().model_copy(update=NO_SEMANTIC)
    lost = 614_008 + 4_865_889 + spims + maps + gates
    assert count(full()) - count(without_semantic) == lost


def test_settings_that_nothing_would_read_are_refused():
    with pytest.raises(ValidationError, match="done after Stage I"):
        Stage2Config(model=cut(**NO_SEMANTIC))
    with pytest.raises(ValidationError, match="there is no denoiser"):
        cut(**NO_SEMANTIC, denoiser_predicts="noise")
    with pytest.raises(ValidationError, match="contrastive_temperature is set"):
        Stage1Config(model=cut(**NO_DEGRADATION), contrastive_temperature=0.2)
    with pytest.raises(ValidationError, match="degradation_start is set"):
        Stage1Config(model=cut(**NO_DEGRADATION), degradation_start="contrast")


def test_configurations_of_before_are_whole():
    """Checkpoints and bundles that know nothing of the switches load as they were."""
    old = tiny().model_dump(mode="json")
    del old["degradation_prior"], old["semantic_prior"]
    assert DSPFusionConfig.model_validate(old) == tiny()
