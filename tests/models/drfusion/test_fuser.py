from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from models import find_system, read_fuser_config
from models.color import from_luma, to_chroma, to_gray
from models.drfusion.config import DRFusionConfig, tiny
from models.drfusion.fuser import LUMA_NOISE, DRFusionFuser, guided_filter, observe_pair
from models.drfusion.observation import corrected
from models.drfusion.sampler import UnrolledChain
from models.system import FuseOptions
from tests.models.drfusion.samples import BLURRED, CLEAN, COARSE, NOISY, hints, pair


def fuser(**changes: object) -> DRFusionFuser:
    torch.manual_seed(0)
    return DRFusionFuser(DRFusionConfig(**{**dict(tiny()), **changes})).eval()


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (24, 31)])
@torch.no_grad()
def test_shapes_and_range(size: tuple[int, int]) -> None:
    vi, ir = pair(2, *size)
    fused, restored_vi, restored_ir = fuser()(vi, ir, hints(NOISY, COARSE))
    assert fused.shape == restored_vi.shape == (2, 3, *size)
    assert restored_ir.shape == (2, 1, *size)
    for picture in (fused, restored_vi, restored_ir):
        assert 0 <= picture.min() <= picture.max() <= 1


@torch.no_grad()
def test_odd_sizes_are_replicated() -> None:
    vi, ir = pair(1, 17, 21)
    told = hints(BLURRED)
    padded = (torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate") for x in (vi, ir))
    whole = fuser()(*padded, told)
    for ours, expected in zip(fuser()(vi, ir, told), whole, strict=True):
        assert torch.equal(ours, expected[..., :17, :21])


@torch.no_grad()
def test_what_it_is_told_matters_and_is_each_pairs_own() -> None:
    vi, ir = pair(1, 16, 16)
    model = fuser(sigma_y=None)
    rows = (CLEAN, NOISY, BLURRED, COARSE)
    together = model(vi.expand(4, -1, -1, -1), ir.expand(4, -1, -1, -1), hints(*rows))
    for place, row in enumerate(rows):
        alone = model(vi, ir, hints(row)).fused
        torch.testing.assert_close(together.fused[place : place + 1], alone, atol=5e-5, rtol=0)
    distinct = [(together.fused[0] - together.fused[i]).abs().max() for i in (1, 2, 3)]
    assert min(distinct) > 1e-3


@torch.no_grad()
def test_clean_pictures_come_back() -> None:
    vi, ir = pair(1, 16, 20)
    model = fuser(sigma_y=None, correction="paper")
    _, restored_vi, restored_ir = model(vi, ir, hints(CLEAN))
    torch.testing.assert_close(restored_vi, vi, atol=2e-5, rtol=0)
    torch.testing.assert_close(restored_ir, ir, atol=2e-5, rtol=0)


@torch.no_grad()
def test_the_colour_is_the_degraded_pictures() -> None:
    vi, ir = (0.4 + 0.2 * x for x in pair(1, 16, 16))
    model = fuser(sigma_y=None, correction="paper")
    fused = model(vi, ir, hints(CLEAN)).fused
    for ours, expected in zip(to_chroma(fused), to_chroma(vi), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_noise_of_the_luma() -> None:
    """White noise of the three colours has LUMA_NOISE of its deviation in the luma (spec 7)."""
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert abs(float(to_gray(noise).std()) - LUMA_NOISE) < 0.01
    vi, ir = pair(1, 16, 16)
    told = hints(NOISY)
    own = observe_pair(vi, ir, **told, config=DRFusionConfig(sigma_y=None))
    torch.testing.assert_close(own.sigma_y.flatten(), torch.tensor([0.05, 0.05 * LUMA_NOISE]))
    released = observe_pair(vi, ir, **told, config=DRFusionConfig())
    assert released.sigma_y.flatten().tolist() == pytest.approx([0.03, 0.03])


def test_denoised_chroma_follows_the_edges_of_the_fused_picture() -> None:
    guide = torch.zeros(1, 1, 32, 32)
    guide[..., 16:] = 1
    chroma = 0.2 * guide - 0.1
    noise = 0.05 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    error = guided_filter(chroma + noise, guide) - chroma
    assert error.std() < 0.25 * noise.std()
    assert error.abs().max() < 0.05
    vi, ir = pair(1, 16, 16)
    with torch.no_grad():
        one, other = (fuser(chroma=c)(vi, ir, hints(NOISY)) for c in ("degraded", "denoised"))
    assert not torch.equal(one.fused, other.fused)


def test_from_luma_is_the_inverse() -> None:
    vi, _ = pair(1, 8, 8)
    torch.testing.assert_close(from_luma(to_gray(vi), *to_chroma(vi)), vi, atol=2e-6, rtol=0)


def test_hints_are_needed_and_sizes_checked() -> None:
    vi, ir = pair(1, 16, 16)
    with pytest.raises(ValueError, match="needs the hints vi_op and ir_op"):
        fuser()(vi, ir)
    with pytest.raises(ValueError, match="of the same size"):
        fuser()(vi, ir[..., :8], hints(CLEAN))
    with pytest.raises(ValueError, match="at least 16 pixels"):
        fuser()(vi[..., :8], ir[..., :8], hints(CLEAN))


def test_the_system() -> None:
    system = find_system("drfusion")
    config = system.tiny()
    assert read_fuser_config(config.model_dump()) == config
    assert system.hint_names == ("vi_op", "ir_op")
    with torch.device("meta"):
        whole = UnrolledChain(DRFusionConfig())
    assert sum(x.numel() for x in whole.state_dict().values()) == 31_773_121
    with pytest.raises(ValueError, match="tile_px=64: this system does not offer it"):
        system.prepare(fuser(), FuseOptions(tile_px=64))


@torch.no_grad()
def test_coarse_colour_is_interpolated_where_it_is_told() -> None:
    slope = torch.linspace(-0.1, 0.1, 32).expand(1, 1, 32, 32)
    smooth = from_luma(torch.full_like(slope, 0.5), slope, -slope)
    vi = F.interpolate(F.avg_pool2d(smooth, 4), scale_factor=4)
    model = fuser(sigma_y=None, correction="paper")
    clean, coarse = torch.tensor([CLEAN]), torch.tensor([[0.0, 0, 4]])
    error = {}
    for name, vi_op in (("told", coarse), ("not told", clean)):
        restored = model(vi, to_gray(vi), {"vi_op": vi_op, "ir_op": clean}).vi
        inside = ((restored > 0) & (restored < 1)).all(
            dim=1, keepdim=True
        )  # where RGB is not clipped
        inside[..., :8] = inside[..., -8:] = False
        assert inside.sum() > 100
        error[name] = (to_chroma(restored)[0] - slope)[inside].abs().max()
    assert error["told"] < 1e-3
    assert error["not told"] > 5e-3


@pytest.mark.parametrize("inverse", ["cascade", "gradients"])
@torch.no_grad()
def test_a_correction_brings_back_what_was_seen(inverse: str) -> None:
    """Without noise both inverses bring the restored pictures to the observation, gradients nearer."""
    vi, ir = pair(1, 32, 32)
    rows = torch.tensor([[0.0, 1.0, 2]])
    model = fuser(inverse=inverse, sigma_y=None, correction="paper")
    observation = observe_pair(vi, ir, vi_op=rows, ir_op=rows, config=model.config)
    seen = observation.operators.apply(torch.rand(1, 2, 32, 32))
    observation = replace(observation, pictures=seen)
    one = (torch.ones(1), torch.ones(1))
    moved = corrected(
        torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), observation, one, form="paper"
    )
    left = (observation.operators.apply(moved[:, :2]) - seen).norm() / seen.norm()
    assert left < {"cascade": 0.1, "gradients": 0.01}[inverse]
    told = {"vi_op": rows, "ir_op": rows}
    assert all(torch.isfinite(picture).all() for picture in model(vi, ir, told))
