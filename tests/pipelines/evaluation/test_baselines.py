from typing import get_args

import pytest
import torch

from pipelines.evaluation.baselines import BASELINES, Baseline


def pair(height: int = 41, width: int = 53) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vi = torch.rand(2, 3, height, width, generator=generator)
    return vi, torch.rand(2, 1, height, width, generator=generator)


@pytest.mark.parametrize("name", get_args(Baseline))
def test_a_baseline_gives_a_picture_of_the_batch(name: Baseline) -> None:
    vi, ir = pair()
    fused = BASELINES[name](vi, ir).fused
    assert (fused.shape, fused.dtype) == (vi.shape, torch.float32)
    assert 0 <= fused.min() <= fused.max() <= 1
    one = BASELINES[name](vi[1:], ir[1:]).fused
    torch.testing.assert_close(fused[1:], one)


@pytest.mark.parametrize("name", ["average", "maximum", "laplacian", "guided_filter"])
def test_a_rule_gives_back_a_picture_that_both_cameras_agree_on(name: Baseline) -> None:
    _, ir = pair()
    vi = ir.expand(-1, 3, -1, -1)
    torch.testing.assert_close(BASELINES[name](vi, ir).fused, vi, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["laplacian", "guided_filter"])
def test_a_rule_takes_the_stronger_detail(name: Baseline) -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    flat = torch.full((1, 3, 64, 64), 0.5)
    fused = BASELINES[name](flat, stripes).fused
    assert fused.std() > 1.5 * BASELINES["average"](flat, stripes).fused.std()


@pytest.mark.parametrize("name", ["non_local_means", "wiener"])
def test_denoising_comes_closer_to_the_clean_pair(name: Baseline) -> None:
    clean = torch.linspace(0.2, 0.8, 64).expand(1, 1, 64, 64)
    noise = 0.05 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = (clean + noise).clamp(0, 1)
    errors = {
        rule: (BASELINES[rule](noisy.expand(-1, 3, -1, -1), noisy).fused - clean).square().mean()
        for rule in (name, "laplacian")
    }
    assert errors[name] < 0.6 * errors["laplacian"]


def test_flat_pictures_stay_finite() -> None:
    vi, ir = torch.zeros(1, 3, 24, 24), torch.zeros(1, 1, 24, 24)
    for name, fuse in BASELINES.items():
        assert torch.isfinite(fuse(vi, ir).fused).all(), name
