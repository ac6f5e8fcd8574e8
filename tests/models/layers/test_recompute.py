"""Recomputed blocks give the same losses and gradients, and keep less."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.layers import cpu_strips
from models.layers.blocks import TransformerBlock
from models.layers.recompute import recompute_blocks


@pytest.fixture
def whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_strips, "use_strips", lambda *_, **__: False)


class DropoutBlock(nn.Module):
    """A block whose result hangs on the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TransformerBlock(8, num_heads=2, ffn_expansion=2)
        self.dropout = nn.Dropout2d(0.5)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.dropout(self.block(x)) * scale


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DropoutBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, x.new_tensor(0.5))
        return x


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def loss_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    loss = network(x).square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, [x, *network.parameters()])]


def saved_numbers(network: nn.Module, x: Tensor) -> int:
    """How many numbers autograd keeps of a forward pass, weights and shared maps once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return sum(kept.values())


@pytest.mark.usefixtures("whole_maps")
@pytest.mark.parametrize("kinds", [(TransformerBlock,), (DropoutBlock,)])
def test_losses_and_gradients_are_the_same(kinds: tuple[type[nn.Module], ...]) -> None:
    x = torch.rand(2, 8, 6, 5, requires_grad=True)
    plain, recomputed = network(), network()
    recompute_blocks(recomputed, kinds)
    for before, after in zip(
        loss_and_gradients(plain, x), loss_and_gradients(recomputed, x), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.usefixtures("whole_maps")
def test_it_keeps_less() -> None:
    x = torch.rand(2, 8, 32, 32, requires_grad=True)
    plain, recomputed = network(), network()
    recompute_blocks(recomputed)
    assert saved_numbers(recomputed, x) < saved_numbers(plain, x) / 4


def test_where_strips_are_used_it_does_nothing() -> None:
    x = torch.rand(2, 8, 6, 5, requires_grad=True)
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2)
    recompute_blocks(block)
    assert type(block(x).grad_fn).__name__ == "_FeedForwardBackward"
    with torch.autocast("cpu", torch.bfloat16):  # whole maps, that is, recomputed ones
        made = block(x)
        torch.testing.assert_close(made, TransformerBlock.forward(block, x), rtol=0, atol=0)
    made.sum().backward()


@pytest.mark.usefixtures("whole_maps")
def test_names_copies_and_inference_stay() -> None:
    x = torch.rand(1, 8, 6, 5)
    plain, recomputed = network().eval(), network().eval()
    recompute_blocks(recomputed)
    assert plain.state_dict().keys() == recomputed.state_dict().keys()
    copied = copy.deepcopy(recomputed)
    nn.init.zeros_(next(recomputed.parameters()))  # a copy has its own weights
    with torch.no_grad():
        assert torch.equal(plain(x), copied(x))


@pytest.mark.usefixtures("whole_maps")
def test_it_can_be_compiled() -> None:
    x = torch.rand(2, 8, 6, 5, requires_grad=True)
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2)
    recompute_blocks(block)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss_and_gradients(compiled, x), loss_and_gradients(block, x))


def test_a_network_without_such_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no effect: Linear has no TransformerBlock"):
        recompute_blocks(nn.Linear(2, 2))
