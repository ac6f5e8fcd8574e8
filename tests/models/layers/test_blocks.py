import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.layers.blocks import (
    ChannelNorm,
    Downsample,
    TokenMixer,
    TransformerBlock,
    Upsample,
    attend,
    channel_weights,
    split_pair,
)
from models.layers.pixel_sums import PixelSums


def test_channel_norm_is_layer_norm_of_each_pixel():
    torch.manual_seed(0)
    x = torch.rand(2, 6, 3, 5)
    norm = ChannelNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    pixel = F.layer_norm(x[1, :, 2, 4], (6,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(x)[1, :, 2, 4], pixel)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_channel_attention_equals_normalised_rows(num_heads):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 3, 5).unbind(0)
    temperature = torch.rand(num_heads, 1, 1) + 1
    project = torch.randn(4, 4, 1, 1)
    ours = attend(v, channel_weights(q, k, temperature, PixelSums()), project)
    rows = [x.reshape(2, num_heads, 4 // num_heads, 15) for x in (q, k, v)]
    weights = temperature * F.normalize(rows[0], dim=-1) @ F.normalize(rows[1], dim=-1).mT
    plain = (weights.softmax(-1) @ rows[2]).reshape(2, 4, 3, 5)
    torch.testing.assert_close(ours, F.conv2d(plain, project))


def test_channel_attention_of_black_features_is_finite():
    zero = torch.zeros(1, 4, 4, 4, requires_grad=True)
    weights = channel_weights(zero, zero, torch.ones(1, 1, 1), PixelSums())
    out = attend(zero, weights, torch.ones(4, 4, 1, 1))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(zero.grad).all()


def test_shapes():
    x = torch.rand(2, 8, 4, 6)
    assert Downsample(8)(x).shape == (2, 16, 2, 3)
    assert Upsample(8)(x).shape == (2, 4, 8, 12)
    assert TransformerBlock(8, num_heads=2, ffn_expansion=2.66)(x).shape == x.shape
    tokens = torch.rand(2, 4, 8)
    assert TokenMixer(4, 8, expansion=2)(tokens).shape == tokens.shape


def test_blocks_are_residual():
    """With silent last layers a block is the identity."""
    x = torch.rand(1, 8, 4, 4)
    block = TransformerBlock(8, num_heads=1, ffn_expansion=2)
    nn.init.zeros_(block.attention.project_out.weight)
    nn.init.zeros_(block.feed_forward.project_out.weight)
    torch.testing.assert_close(block(x), x)


def test_residuals_and_sums_are_float32_under_autocast():
    """On whole maps, as on an accelerator: while gradients are recorded there are no strips of bf16."""
    block = TransformerBlock(8, num_heads=2, ffn_expansion=2.0)
    x = torch.rand(1, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = x.bfloat16()  # as a convolution leaves it
        assert block(rounded).dtype == torch.float32
        q, k = (torch.rand(1, 8, 64, 64).bfloat16() for _ in range(2))
        weights = channel_weights(q, k, torch.ones(2, 1, 1), PixelSums())
    exact = channel_weights(q.float(), k.float(), torch.ones(2, 1, 1), PixelSums())
    assert torch.equal(weights, exact)


def test_split_pair():
    first, second = split_pair(torch.arange(6).view(6, 1))
    assert first.flatten().tolist() == [0, 1, 2]
    assert second.flatten().tolist() == [3, 4, 5]
