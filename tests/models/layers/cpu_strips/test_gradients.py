"""What layers hand back row by row, to their inputs and their weights, is what autograd hands back."""

import pytest
import torch
from torch import Tensor, nn

from models.dspfusion.cross_attention import CrossAttention
from models.layers.blocks import GatedFeedForward, TransformerBlock
from models.layers.cpu_strips import gradients as strip_gradients
from models.layers.cpu_strips import rows as strips
from models.layers.cpu_strips.gradients import can_differentiate


@pytest.fixture(autouse=True, params=[1, 500, 1 << 20])
def strip_numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of two rows, of a few rows with an incomplete last one, and of the whole image."""
    monkeypatch.setattr(strips, "_STRIP_NUMBERS", request.param)


def outputs_and_gradients(module: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    out = module(*maps)
    towards = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    inputs = [x for x in (*maps, *module.parameters()) if x.requires_grad]
    return [out.detach(), *torch.autograd.grad((out * towards).sum(), inputs)]


@pytest.mark.parametrize("learning", ["inputs", "weights", "both"])
@pytest.mark.parametrize("kind", ["block", "cross_attention"])
@pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 9, 5)])
def test_gradients_are_those_of_autograd(
    kind: str, shape: tuple[int, ...], learning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2.66)
    module, num_maps = (block, 1) if kind == "block" else (CrossAttention(8, num_heads=2), 2)
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.requires_grad_(learning != "inputs")
    maps = [
        torch.randn(shape, dtype=torch.double, requires_grad=learning != "weights")
        for _ in range(num_maps)
    ]
    assert can_differentiate(module, *maps)
    by_strips = outputs_and_gradients(module, maps)
    monkeypatch.setattr(strip_gradients, "can_differentiate", lambda *_: False)
    torch.testing.assert_close(by_strips, outputs_and_gradients(module, maps))


def test_only_gradients_that_are_wanted_go_by_strips() -> None:
    layer, x = GatedFeedForward(8, expansion=2), torch.rand(1, 8, 3, 3)
    assert can_differentiate(layer, x)
    layer.requires_grad_(False)
    assert not can_differentiate(layer, x)
    x.requires_grad_()
    assert can_differentiate(layer, x)
    with torch.no_grad():
        assert not can_differentiate(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_differentiate(layer, x)
