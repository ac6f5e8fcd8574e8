import pytest
import torch

from models.dspfusion.config import DSPFusionConfig, tiny
from models.dspfusion.denoiser import join_condition
from models.dspfusion.fuser import DSPFusionFuser, PaddedFuser, pad_to_multiple, stretch_extremes


def fuser(**changes) -> DSPFusionFuser:
    torch.manual_seed(0)
    config = DSPFusionConfig(**{**tiny().model_dump(), **changes})
    return DSPFusionFuser(config).eval().requires_grad_(False)


def pair(size: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(size, 3, height, width, generator=generator),
        torch.rand(size, 1, height, width, generator=generator),
    )


@pytest.mark.parametrize("prior", ["diffusion", "low_quality"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 31), (1, 24, 43), (3, 32, 40)])
def test_any_size(prior, shape):
    vi, ir = pair(*shape)
    fused = fuser(prior=prior)(vi, ir).fused
    assert fused.shape == vi.shape
    assert fused.dtype == torch.float32
    assert 0 <= fused.min() < fused.max() <= 1


def test_padding_is_cropped_reflection():
    vi, ir = pair(1, 17, 30)
    model = fuser()
    padded = model.fuse_padded(pad_to_multiple(vi), pad_to_multiple(ir), model.noise)
    assert padded.shape == (1, 3, 24, 32)
    assert torch.equal(model(vi, ir).fused, padded[..., :17, :30])
    assert torch.equal(pad_to_multiple(vi)[..., 17, :30], vi[..., 15, :])


def test_deterministic_and_inputs_untouched():
    vi, ir = pair(2, 16, 24)
    before = vi.clone(), ir.clone()
    torch.manual_seed(1)
    first = fuser()(vi, ir).fused
    torch.rand(7)  # The global generator has no say.
    assert torch.equal(first, fuser()(vi, ir).fused)
    assert torch.equal(vi, before[0])
    assert torch.equal(ir, before[1])


def test_an_image_does_not_depend_on_its_batch():
    vi, ir = pair(3, 16, 16)
    model = fuser()
    torch.testing.assert_close(model(vi, ir).fused[1:2], model(vi[1:2], ir[1:2]).fused)


def test_noise():
    vi, ir = pair(2, 16, 16)
    model = fuser()
    assert torch.equal(model(vi, ir).fused, model(vi, ir, noise=model.noise).fused)
    other = torch.randn(model.noise.shape, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(model(vi, ir).fused, model(vi, ir, noise=other).fused)
    assert not torch.equal(fuser(noise_seed=1).noise, model.noise)
    assert "noise" not in model.state_dict()


def test_noise_without_diffusion_is_refused():
    model = fuser(prior="low_quality")
    with pytest.raises(ValueError, match="low_quality"):
        model(*pair(1, 16, 16), noise=model.noise)


def test_stretch_is_of_the_cropped_result():
    vi, ir = pair(2, 17, 30)
    plain, stretched = fuser()(vi, ir).fused, fuser(stretch=True)(vi, ir).fused
    assert torch.equal(stretched.amin((1, 2, 3)), torch.zeros(2))
    assert torch.equal(stretched.amax((1, 2, 3)), torch.ones(2))
    low, high = float(plain[0].min()), float(plain[0].max())
    torch.testing.assert_close(stretched[0], (plain[0] - low) / (high - low))
    assert torch.equal(fuser(stretch=True).fuse_tiled(vi, ir, tile_px=64).fused, stretched)


def test_the_exported_part_stretches():
    vi, ir = pair(1, 16, 24)
    model = fuser(stretch=True)
    assert torch.equal(PaddedFuser(model)(vi, ir), model(vi, ir).fused)


def test_stretch_known_values():
    image = torch.tensor([0.2, 0.3, 0.6]).view(1, 3, 1, 1)
    torch.testing.assert_close(stretch_extremes(image).flatten(), torch.tensor([0, 0.25, 1]))
    assert torch.equal(stretch_extremes(torch.full((1, 3, 2, 2), 0.7)), torch.zeros(1, 3, 2, 2))


def test_ancestral_sampling():
    """The chain by hand: mean of the step, its sigma, no noise in the last; any sign comes out."""
    vi, ir = pair(2, 16, 16)
    model = fuser(denoiser_predicts="noise")
    degradation, restored = model.priors(
        vi, ir.expand(-1, 3, -1, -1), model.noise.expand(2, -1, -1)
    )
    both = torch.cat([ir.expand(-1, 3, -1, -1), vi], dim=1)
    encoded = model.denoiser.encode_condition(join_condition(model.semantic(both), degradation))
    x_t, s = model.noise.expand(2, -1, -1), model.schedule
    for t in (2, 1, 0):
        predicted = model.denoiser(x_t, encoded, t)
        assert predicted.min() < -0.17  # Less than a GELU can be.
        x_t = (x_t - s.betas[t] / (1 - s.alpha_bars[t]) ** 0.5 * predicted) / (
            1 - s.betas[t]
        ) ** 0.5
        if t:
            x_t = x_t + s.sigmas[t] * model.step_noise[t - 1]
    torch.testing.assert_close(restored, x_t)
    assert torch.equal(model.noise, fuser().noise)
    assert fuser().step_noise is None


def test_another_number_of_steps():
    vi, ir = pair(1, 16, 16)
    for predicts in ("x0", "noise"):
        model = fuser(denoiser_predicts=predicts)
        before = model(vi, ir).fused
        model.set_num_steps(5)
        assert not torch.equal(model(vi, ir).fused, before)
        model.set_num_steps(3)
        assert torch.equal(model(vi, ir).fused, before)


def test_each_convolution_of_the_paper_changes_the_picture():
    vi, ir = pair(1, 16, 24)
    plain = fuser()
    for change in ({"dpmm_convolution": False}, {"fusion_convolution": False}):
        changed = fuser(**change)
        changed.load_state_dict(plain.state_dict(), strict=False)
        assert not torch.equal(changed(vi, ir).fused, plain(vi, ir).fused), change
    assert fuser(level1_reduction=True)(vi, ir).fused.shape == vi.shape


@pytest.mark.parametrize(
    ("vi_shape", "ir_shape", "message"),
    [
        ((1, 3, 16, 16), (1, 3, 16, 16), "B×1×H×W"),
        ((1, 3, 16, 16), (1, 1, 16, 24), "same size"),
        ((1, 3, 15, 16), (1, 1, 15, 16), "at least 16"),
    ],
)
def test_wrong_inputs_are_refused(vi_shape, ir_shape, message):
    with pytest.raises(ValueError, match=message):
        fuser()(torch.rand(vi_shape), torch.rand(ir_shape))


@torch.inference_mode()
def test_bf16_is_nearly_float32():
    """The priors are not touched; a fuser whose weights are bfloat16 would be 20 dB worse."""
    vi, ir = pair(2, 24, 43)
    precise, rounded = fuser()(vi, ir).fused, fuser().speed_up(precision="bf16")(vi, ir).fused
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, precise)
    assert (rounded - precise).square().mean() < 1e-5


@torch.inference_mode()
def test_bf16_tiles():
    vi, ir = pair(1, 50, 61)
    model = fuser().speed_up(precision="bf16")
    assert torch.equal(model.fuse_tiled(vi, ir, tile_px=64).fused, model(vi, ir).fused)


def test_compiled_means_compiled():
    """What the compiler makes of it is measured by `jobs.bench model`; it takes minutes."""
    assert fuser().fusion._compiled_call_impl is None
    assert fuser().speed_up(compiled=True).fusion._compiled_call_impl is not None
