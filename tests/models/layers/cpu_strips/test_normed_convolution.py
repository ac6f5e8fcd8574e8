import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import cpu_strips
from models.layers.cpu_strips.wide_convolution import is_wide, wide_convolution


def build(channels_in: int, channels_out: int) -> tuple[nn.GroupNorm, nn.Conv2d]:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, channels_in)
    nn.init.normal_(norm.weight, mean=1, std=0.2)
    return norm, nn.Conv2d(channels_in, channels_out, 3, padding=1)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 64), (33, 61), (3, 700), (70, 31)])
def test_a_wide_convolution_is_the_direct_one_at_any_size(size: tuple[int, int]) -> None:
    _, convolution = build(128, 160)
    x = torch.rand(2, 128, *size)
    assert is_wide(x, convolution.weight)
    out = wide_convolution(x, convolution.weight, convolution.bias)
    true = F.conv2d(x.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    assert out.shape == true.shape
    # A direct convolution is 1e-6 away.
    assert float((out - true).abs().max()) < 2e-5


def test_the_transforms_are_exact() -> None:
    # Of small whole numbers in float64 nothing is rounded away.
    x = torch.randint(-3, 4, (1, 128, 5, 7)).double()
    weight = torch.randint(-3, 4, (128, 128, 3, 3)).double()
    out = wide_convolution(x, weight, None)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-9)


def test_narrow_layers_and_small_maps_are_not_worth_it() -> None:
    wide, narrow = torch.empty(128, 128, 3, 3), torch.empty(128, 64, 3, 3)
    assert is_wide(torch.empty(1, 128, 48, 48), wide)
    assert not is_wide(torch.empty(1, 128, 40, 48), wide)
    assert not is_wide(torch.empty(1, 64, 48, 48), narrow)


def gradients_of(
    norm: nn.GroupNorm, convolution: nn.Conv2d, x: Tensor, *, dropout: float
) -> list[Tensor]:
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    parts = copy.deepcopy((norm, convolution))
    out = cpu_strips.normed_convolution(x, *parts, dropout=dropout)
    out.square().mean().backward()
    parameters = [p.grad for part in parts for p in part.parameters()]
    return [out.detach(), x.grad, *parameters]  # type: ignore[list-item]


@pytest.mark.parametrize("channels", [(64, 64), (128, 160), (16, 64)])
def test_outputs_and_gradients_are_those_of_the_lines(channels: tuple[int, int]) -> None:
    norm, convolution = build(*channels)
    x = torch.rand(2, channels[0], 40, 44)
    theirs_norm, theirs = copy.deepcopy((norm, convolution))
    inputs = x.clone().requires_grad_()
    out = theirs(F.silu(theirs_norm(inputs)))
    out.square().mean().backward()
    expected = [out, inputs.grad, *theirs_norm.parameters(), *theirs.parameters()]
    expected[2:] = [parameter.grad for parameter in expected[2:]]
    ours = gradients_of(norm, convolution, x, dropout=0)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_the_same_values_drop_out_on_the_way_back() -> None:
    norm, convolution = build(64, 64)
    x = torch.rand(1, 64, 8, 8)
    first = gradients_of(norm, convolution, x, dropout=0.5)
    assert all(map(torch.equal, first, gradients_of(norm, convolution, x, dropout=0.5)))
    # By finite differences, for which the same values have to drop out each time.
    direction, step = torch.randn_like(x), 1e-2

    def loss(at: Tensor) -> Tensor:
        return gradients_of(norm, convolution, at, dropout=0.5)[0].double().square().mean()

    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((first[1] * direction).sum()), rel=0.02)


def test_what_is_kept_is_the_input_and_the_mask() -> None:
    norm, convolution = build(64, 64)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    x = torch.rand(1, 64, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cpu_strips.normed_convolution(x, norm, convolution, dropout=0.1)
    weights = convolution.weight.nbytes + norm.weight.nbytes + norm.bias.nbytes
    assert sum(sizes) == x.nbytes + x.numel() + weights
