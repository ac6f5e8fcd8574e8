"""What layers hand back row by row, to their inputs and their weights, is what autograd hands back."""

import pytest
import torch
from torch import Tensor, nn

from models.dspfusion.cross_attention import CrossAttention
from models.layers import cpu_strips
from models.layers.blocks import ChannelNorm, GatedFeedForward, TransformerBlock
from models.layers.cpu_strips import pixel_rows as strips
from models.layers.cpu_strips.pixel_rows import wants_gradient


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
    assert cpu_strips.use_strips(*maps)
    by_strips = outputs_and_gradients(module, maps)
    monkeypatch.setattr(cpu_strips, "use_strips", lambda *_: False)
    torch.testing.assert_close(by_strips, outputs_and_gradients(module, maps))


def test_only_gradients_that_are_wanted_go_by_strips() -> None:
    layer, norm, x = GatedFeedForward(8, expansion=2), ChannelNorm(8), torch.rand(1, 8, 3, 3)
    assert type(layer(x, norm).grad_fn).__name__ == "_FeedForwardBackward"
    layer.requires_grad_(False)
    norm.requires_grad_(False)
    assert not layer(x, norm).requires_grad
    x.requires_grad_()
    assert wants_gradient(x)
    assert type(layer(x, norm).grad_fn).__name__ == "_FeedForwardBackward"
    with torch.no_grad():
        assert not wants_gradient(x)
        assert not layer(x, norm).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert type(layer(x, norm).grad_fn).__name__ == "AddBackward0"


def test_without_gradients_a_block_takes_strips_while_they_are_recorded() -> None:
    """Gradient mode alone does not change what comes out."""
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2).requires_grad_(False)
    x = torch.rand(2, 8, 7, 5)
    recorded = block(x)
    with torch.no_grad():
        assert torch.equal(recorded, block(x))
