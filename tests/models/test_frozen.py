"""What frozen layers hand back to their inputs is what autograd hands back."""

import pytest
import torch
from torch import Tensor, nn

from models import frozen, strips
from models.dspfusion.fusion import CrossAttention
from models.layers import GatedFeedForward, TransformerBlock


@pytest.fixture(autouse=True, params=[1, 500, 1 << 20])
def strip_numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of two rows, of a few rows with an incomplete last one, and of the whole image."""
    monkeypatch.setattr(strips, "_STRIP_NUMBERS", request.param)


def outputs_and_gradients(module: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    out = module(*maps)
    towards = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    return [out.detach(), *torch.autograd.grad((out * towards).sum(), maps)]


@pytest.mark.parametrize("kind", ["block", "cross_attention"])
@pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 9, 5)])
def test_gradients_are_those_of_trainable_layers(kind: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2.66)
    module, num_maps = (block, 1) if kind == "block" else (CrossAttention(8, num_heads=2), 2)
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(shape, dtype=torch.double, requires_grad=True) for _ in range(num_maps)]
    trainable = outputs_and_gradients(module, maps)
    module.requires_grad_(False)
    assert frozen.is_frozen(module, *maps)
    torch.testing.assert_close(outputs_and_gradients(module, maps), trainable)


def test_only_frozen_layers_that_hand_gradients_back_take_this_way() -> None:
    layer, x = GatedFeedForward(8, expansion=2).requires_grad_(False), torch.rand(1, 8, 3, 3)
    assert not frozen.is_frozen(layer, x)
    x.requires_grad_()
    assert frozen.is_frozen(layer, x)
    with torch.no_grad():
        assert not frozen.is_frozen(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not frozen.is_frozen(layer, x)
    layer.context.requires_grad_()
    assert not frozen.is_frozen(layer, x)
