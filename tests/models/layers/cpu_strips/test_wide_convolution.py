import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.layers import cpu_strips
from models.layers.convolution import WideConv2d


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 64), (33, 61), (3, 700), (70, 31)])
def test_a_wide_convolution_is_the_direct_one_at_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolution = WideConv2d(128, 160).requires_grad_(False)
    x = torch.rand(2, 128, *size)
    out = convolution(x)
    assert cpu_strips.is_wide(x, convolution.weight)
    with cpu_strips.whole_maps():
        assert not torch.equal(out, convolution(x))
    true = F.conv2d(x.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    assert out.shape == true.shape
    # A direct convolution is 1e-6 away.
    assert float((out - true).abs().max()) < 2e-5


def test_the_transforms_are_exact() -> None:
    # Of small whole numbers in float64 nothing is rounded away.
    x = torch.randint(-3, 4, (1, 128, 5, 7)).double()
    weight = torch.randint(-3, 4, (128, 128, 3, 3)).double()
    bias = torch.zeros(128, dtype=torch.float64)
    out = cpu_strips.wide_convolution(x, weight, bias)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-9)


def test_training_narrow_layers_and_small_maps_are_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("no strips here")

    monkeypatch.setattr(cpu_strips, "wide_convolution", refuse)
    wide, narrow = WideConv2d(128, 128), WideConv2d(16, 128)
    x = torch.rand(1, 128, 48, 48)
    direct = nn.Conv2d(128, 128, 3, padding=1)
    direct.load_state_dict(wide.state_dict())
    assert torch.equal(wide(x), direct(x))
    with torch.no_grad():
        assert narrow(x[:, :16]).shape == (1, 128, 48, 48)
        assert wide(x[..., :40, :48]).shape == (1, 128, 40, 48)
