import pytest
import torch
from torch import nn

from models.layers.blocks import ChannelNorm, SelfAttention
from models.lure.blocks import FeatureModulation, InnerResidualAttention, TextGuidedAttention
from models.lure.config import TEXT_WIDTH, LUREConfig, full, small, tiny
from models.lure.networks import Decoder, Encoder, FusionModule, fusion_modules


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pictures(*, size: int = 2, side: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, side, side, generator=generator)


def texts(*, size: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, TEXT_WIDTH, generator=generator)


def features(channels: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_full_has_the_specified_number_of_parameters():
    encoder, decoder, fusion = Encoder(full()), Decoder(full()), fusion_modules(full())
    assert num_parameters(encoder) == 4_952_402
    assert num_parameters(decoder) == 2_584_939
    assert num_parameters(fusion) == 1_256_941


def test_latents_of_full_have_widths_and_strides():
    latents = Encoder(full())(pictures(size=1), texts(size=1))
    assert [z.shape for z in latents] == [
        (1, 32, 32, 32),
        (1, 64, 16, 16),
        (1, 128, 8, 8),
        (1, 256, 4, 4),
    ]


@pytest.mark.parametrize("config", [small(), tiny()])
def test_decoder_returns_a_picture(config: LUREConfig):
    torch.manual_seed(0)
    decoded = Decoder(config)(Encoder(config)(pictures(side=24), texts()))
    assert decoded.shape == (2, 3, 24, 24)
    assert 0 < decoded.min() < decoded.max() < 1


def test_text_guidance_starts_as_identity():
    torch.manual_seed(0)
    x = features(8)
    assert torch.equal(TextGuidedAttention(8)(x, texts()), x)


def test_inner_gate_of_zero_is_plain_attention():
    torch.manual_seed(0)
    norm, plain, inner = (
        ChannelNorm(8),
        SelfAttention(8, num_heads=2),
        InnerResidualAttention(8, 2, inner_residual=True),
    )
    inner.load_state_dict({**plain.state_dict(), "inner_gate": torch.zeros(8)})
    x = features(8)
    torch.testing.assert_close(inner(x, norm), plain(x, norm), atol=1e-6, rtol=0)


def test_inner_gate_adds_the_values():
    torch.manual_seed(0)
    norm, inner = ChannelNorm(8), InnerResidualAttention(8, 2, inner_residual=True)
    x = features(8)
    without = inner(x, norm)
    gate = torch.randn(8)
    inner.inner_gate.data.copy_(gate)
    v = inner.qkv_context(inner.qkv(norm(x))).chunk(3, dim=1)[2]
    expected = without + inner.project_out(gate[:, None, None] * v)
    torch.testing.assert_close(inner(x, norm), expected, atol=1e-5, rtol=0)


def test_the_prompt_acts_through_text_guidance_alone():
    torch.manual_seed(0)
    encoder = Encoder(tiny())
    first, second = (encoder(pictures(), texts(seed=seed)) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for block in encoder.guided:
        nn.init.normal_(block.guidance.project_out.weight, std=0.1)
    first, second = (encoder(pictures(), texts(seed=seed)) for seed in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_modulation_by_text_starts_as_identity_and_has_no_map():
    torch.manual_seed(0)
    x, modulation = features(8), FeatureModulation(8)
    assert torch.equal(modulation(x, texts()), x)
    nn.init.normal_(modulation.affine.weight, std=0.1)
    changed = modulation(x, texts())
    # One scale and one shift a channel: differences of pixels keep their ratio.
    scale = (changed[..., 1:] - changed[..., :-1]) / (x[..., 1:] - x[..., :-1])
    torch.testing.assert_close(scale, scale[..., :1, :1].expand_as(scale), atol=1e-2, rtol=1e-2)
    assert not torch.allclose(changed, x)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"inner_residual": False}, "inner_gate"),
        ({"guidance": "film"}, "guidance.gate"),
        ({"norm": "post"}, None),
    ],
)
def test_an_ablation_changes_the_encoder(changes: dict[str, object], lost: str | None):
    def latents(config: LUREConfig) -> tuple[list[torch.Tensor], list[str]]:
        torch.manual_seed(0)
        encoder = Encoder(config)
        for name, parameter in encoder.named_parameters():
            if name.endswith(("inner_gate", "guidance.project_out.weight")):
                nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            return list(encoder(pictures(), texts())), list(encoder.state_dict())

    whole, names = latents(tiny())
    cut, cut_names = latents(tiny().model_copy(update=changes))
    assert [z.shape for z in cut] == [z.shape for z in whole]
    assert not torch.allclose(cut[-1], whole[-1])
    if lost:
        assert any(lost in name for name in names)
        assert not any(lost in name for name in cut_names)


def test_layers_that_are_normalised_afterwards_are_normal():
    torch.manual_seed(0)
    encoder = Encoder(tiny().model_copy(update={"norm": "post"}))
    for z in encoder(pictures(), texts()):
        torch.testing.assert_close(
            z.mean(dim=1), torch.zeros(z.mean(dim=1).shape), atol=1e-4, rtol=0
        )


def test_fusion_weights_sum_to_one():
    torch.manual_seed(0)
    fusion = FusionModule(tiny(), 1)
    weights = fusion.weights(features(8), features(8, seed=1))
    assert weights.shape == (2, 2, 8, 8, 8)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 8, 8, 8))
    assert weights.std() > 0


def test_equal_latents_fuse_to_the_plain_block_of_one():
    torch.manual_seed(0)
    fusion = FusionModule(tiny(), 1)
    z = features(8)
    torch.testing.assert_close(fusion(z, z), fusion.block(z), atol=1e-5, rtol=0)


def test_config_names_the_level_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="level 1 has 32 channels, which 3 heads"):
        LUREConfig(num_heads=(3, 1, 1, 1))
