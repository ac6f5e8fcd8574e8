import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models import build_fuser
from models.dspfusion.config import (
    DSPFusionConfig,
    FusionWeights,
    Stage1Config,
    Stage2Config,
    full,
    fuser_config,
    small,
    tiny,
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_parameter_counts():
    """Spec 1, the table of networks."""
    with torch.device("meta"):
        fuser = build_fuser(full())
    assert count(fuser.fusion) == 8_415_099
    assert count(fuser.degradation) == 117_193
    assert count(fuser.semantic) == 614_008
    assert count(fuser.denoiser) == 4_865_889


def test_three_heads_parameter_count():
    """8,665,114 of the spec, less the three SPIMs of 41,664 that the official heads never use."""
    with torch.device("meta"):
        fuser = build_fuser(DSPFusionConfig(three_heads=True))
    assert count(fuser.fusion) == 8_665_114 - 3 * 41_664


def test_small_is_for_cpu_training():
    assert 300_000 < count(build_fuser(small())) < 600_000
    assert count(build_fuser(tiny())) < 100_000


def test_every_size_is_configurable():
    config = DSPFusionConfig(
        width=6,
        num_blocks=(1, 2, 1, 2),
        num_heads=(2, 1, 4, 3),
        num_refinement_blocks=2,
        ffn_expansion=1.5,
        prior_grid=3,
        num_deep_tokens=2,
        semantic_width=6,
        num_semantic_blocks=2,
        degradation_width=2,
        num_degradation_blocks=2,
        denoiser_width=10,
        num_denoiser_blocks=2,
        num_steps=2,
    )
    fused = build_fuser(config)(torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 24))
    assert fused.shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": (3, 1, 2, 2)}, "level 1 has 32 channels"),
        ({"semantic_width": 7}, "must be even"),
        ({"beta_start": 0.5, "beta_end": 0.2}, "noise grows"),
        ({"num_step": 3}, "num_step"),
    ],
)
def test_mistakes_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        DSPFusionConfig(**change)


def test_settings_that_cannot_train_are_refused():
    with pytest.raises(ValidationError, match="contrastive_weight"):
        Stage1Config(contrastive_weight=0)
    with pytest.raises(ValidationError, match="every fusion weight is 0"):
        FusionWeights(intensity_max=0, intensity_consistency=0, color=0, gradient=0, ssim=0)
    with pytest.raises(ValidationError, match="three_heads"):
        Stage1Config(model=DSPFusionConfig(three_heads=True))
    with pytest.raises(ValidationError, match="Stage II trains the denoiser"):
        Stage2Config(model=DSPFusionConfig(prior="low_quality"))


@pytest.mark.parametrize("config", [Stage1Config(model=small()), Stage2Config(model=tiny())])
def test_json_round_trip(config):
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_fuser_config_of_a_stage():
    assert fuser_config(Stage1Config(model=tiny())).prior == "low_quality"
    assert fuser_config(Stage2Config(model=tiny())) == tiny()
