import pytest
import torch
from pydantic import ValidationError
from torch import nn

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
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.released import import_released, official_name

PAPER = {
    "dpmm_convolution": False,
    "fusion_convolution": False,
    "level1_reduction": True,
    "denoiser_predicts": "noise",
    "stretch": True,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_parameter_counts():
    """Spec 1, the table of networks."""
    with torch.device("meta"):
        fuser = DSPFusionFuser(full())
    assert count(fuser.fusion) == 8_415_099
    assert count(fuser.degradation) == 117_193
    assert count(fuser.semantic) == 614_008
    assert count(fuser.denoiser) == 4_865_889


def test_three_heads_parameter_count():
    """8,665,114 of the spec, less the three SPIMs of 41,664 that the official heads never use."""
    with torch.device("meta"):
        fuser = DSPFusionFuser(DSPFusionConfig(three_heads=True))
    assert count(fuser.fusion) == 8_665_114 - 3 * 41_664


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        # By hand, over the widths 32, 64, 128, 256: 3×3 C×C each, 1×1 C×C each.
        ({"dpmm_convolution": False}, -9 * (32**2 + 64**2 + 128**2 + 256**2)),
        ({"fusion_convolution": False}, -(32**2 + 64**2 + 128**2 + 256**2)),
        ({"denoiser_predicts": "noise"}, 0),
        ({"stretch": True}, 0),
    ],
)
def test_what_the_papers_variants_weigh(change, weights):
    with torch.device("meta"):
        assert count(DSPFusionFuser(DSPFusionConfig(**change))) == 14_012_189 + weights


def test_the_papers_level_1_halves_the_last_channels():
    with torch.device("meta"):
        network = DSPFusionFuser(DSPFusionConfig(level1_reduction=True)).fusion
    assert network.reductions[0].weight.shape == (32, 64, 1, 1)
    assert network.head.output.weight.shape == (3, 32, 3, 3)
    ours, theirs = (network.decoders[i].blocks[0].parameters() for i in (0, 1))
    assert sum(p.numel() for p in ours) < sum(p.numel() for p in theirs)


def test_released_weights_do_not_fit_the_papers_variants():
    with torch.device("meta"):
        networks = {"net_g": "fusion", "net_dp": "degradation", "net_sp": "semantic"}
        fuser = DSPFusionFuser(DSPFusionConfig(prior="low_quality"))
        files = {
            file: {official_name(name, k): x for k, x in getattr(fuser, name).state_dict().items()}
            for file, name in networks.items()
        }
    for change, message in (
        ({"dpmm_convolution": False}, r"net_g.*conv3x3"),
        ({"level1_reduction": True}, r"reductions\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            import_released(DSPFusionConfig(prior="low_quality", **change), files)


def test_small_is_for_cpu_training():
    assert 300_000 < count(DSPFusionFuser(small())) < 600_000
    assert count(DSPFusionFuser(tiny())) < 100_000


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
    fused = DSPFusionFuser(config)(torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 24)).fused
    assert fused.shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": (3, 1, 2, 2)}, "level 1 has 32 channels"),
        ({"semantic_width": 7}, "must be even"),
        ({"beta_start": 0.5, "beta_end": 0.2}, "noise grows"),
        ({"num_step": 3}, "num_step"),
        ({"denoiser_predicts": "noise", "prior": "low_quality"}, "there is no denoiser"),
        ({"prior_blend": "learned", "semantic_prior": False}, "there is no denoiser"),
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


@pytest.mark.parametrize("stage", [Stage1Config, Stage2Config])
def test_a_content_target_without_its_term_is_refused(stage):
    weights = FusionWeights(intensity_max=0)
    assert stage(fusion_weights=weights).content_target == "brighter_source"
    with pytest.raises(ValidationError, match="intensity_max is 0"):
        stage(fusion_weights=weights, content_target="element_maximum")


def test_a_content_target_without_fusion_is_refused():
    assert Stage2Config(fusion_weights=None).content_target == "brighter_source"
    with pytest.raises(ValueError, match="nothing is fused; leave content_target out"):
        Stage2Config(fusion_weights=None, content_target="element_maximum")


@pytest.mark.parametrize("config", [Stage1Config(model=small()), Stage2Config(model=tiny())])
def test_json_round_trip(config):
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_fuser_config_of_a_stage():
    assert fuser_config(Stage1Config(model=tiny())).prior == "low_quality"
    assert fuser_config(Stage2Config(model=tiny())) == tiny()


def test_fuser_configs_of_the_papers_variants_are_valid():
    model = DSPFusionConfig(**{**tiny().model_dump(), **PAPER})
    for config in (Stage1Config(model=model), Stage2Config(model=model)):
        described = fuser_config(config).model_dump(mode="json")
        assert DSPFusionConfig.model_validate(described) == fuser_config(config)
