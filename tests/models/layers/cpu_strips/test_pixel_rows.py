"""Row by row is the same as the whole, whatever the strips; and who gets which."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.dspfusion.config import tiny
from models.dspfusion.cross_attention import CrossAttention
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.guidance import SemanticIntegration
from models.layers import cpu_strips
from models.layers.blocks import TransformerBlock
from models.layers.cpu_strips import pixel_rows as strips
from models.layers.pixel_sums import sums_of


def random_weights(module: nn.Module) -> nn.Module:
    """Far from the initial ones, so that norms, temperatures and biases count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(params=[1, 64, 500, 1 << 20])
def strip_numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Strips of two rows, of a few rows with an incomplete last one, and of the whole image."""
    monkeypatch.setattr(strips, "_STRIP_NUMBERS", request.param)
    return int(request.param)


def both_ways(module: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By strips, and whole."""
    with torch.no_grad(), pytest.MonkeyPatch.context() as monkeypatch:
        assert cpu_strips.use_strips(*inputs)
        by_strips = module(*inputs)
        monkeypatch.setattr(cpu_strips, "use_strips", lambda *_, **__: False)
        return by_strips, module(*inputs)


@pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 7, 5), (3, 8, 13, 4)])
def test_block(strip_numbers: int, shape: tuple[int, ...]) -> None:
    block = random_weights(TransformerBlock(8, num_heads=2, ffn_expansion=2.66))
    torch.testing.assert_close(*both_ways(block, torch.randn(shape)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 7, 5)])
def test_cross_attention(strip_numbers: int, shape: tuple[int, ...]) -> None:
    attention = random_weights(CrossAttention(8, num_heads=2))
    x, other = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(*both_ways(attention, x, other), rtol=1e-4, atol=1e-4)


def test_semantic_integration(strip_numbers: int) -> None:
    spim = random_weights(SemanticIntegration(8, 12, num_heads=2))
    inputs = torch.randn(2, 8, 7, 5), torch.randn(2, 4, 12)
    torch.testing.assert_close(*both_ways(spim, *inputs), rtol=1e-4, atol=1e-4)


def test_semantic_integration_is_the_plain_one() -> None:
    """Folded into keys and contents, it is queries, keys and values of spec 1.3."""
    spim = random_weights(SemanticIntegration(8, 12, num_heads=2))
    x, prior = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 12)
    q = spim.query(spim.pixel_norm(x).flatten(2).transpose(1, 2))
    k, v = spim.key_value(spim.prior_norm(prior)).chunk(2, -1)
    q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in (q, k, v))
    mixed = ((q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    plain = x + spim.project_out(mixed).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(spim(x, prior), plain, rtol=1e-4, atol=1e-4)


def test_inputs_stay_untouched(strip_numbers: int) -> None:
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    with torch.no_grad():
        TransformerBlock(8, num_heads=2, ffn_expansion=2)(x)
    assert torch.equal(x, before)


def test_a_fuser_gives_the_same_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    fuser = DSPFusionFuser(tiny()).eval()
    vi, ir = torch.rand(2, 3, 21, 34), torch.rand(2, 1, 21, 34)
    with torch.inference_mode():
        by_strips = fuser(vi, ir).fused
    torch.testing.assert_close(by_strips, fuser(vi, ir).fused.detach(), rtol=0, atol=1e-5)


def test_only_eager_mode_on_a_cpu_goes_by_strips() -> None:
    x = torch.zeros(1)
    assert cpu_strips.use_strips(x)
    assert not cpu_strips.use_strips(x, x.to("meta"))
    assert not cpu_strips.use_strips(x, has_gradient=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not cpu_strips.use_strips(x)
    with torch.no_grad():
        assert cpu_strips.use_strips(x)
        assert cpu_strips.use_strips(x, has_gradient=False)
        assert not cpu_strips.use_strips(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert cpu_strips.use_strips(x)
            assert strips.strip_dtype(x) == torch.bfloat16
        assert strips.strip_dtype(x) == torch.float32


@pytest.mark.parametrize("make_graph", ["compile", "export"])
def test_a_graph_has_the_whole_maps(make_graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and exported, a block is its formula over whole maps, bit for bit."""
    block, x = TransformerBlock(8, num_heads=2, ffn_expansion=2).eval(), torch.rand(1, 8, 6, 5)
    with torch.no_grad():
        if make_graph == "compile":
            graph = torch.compile(block, backend="eager", fullgraph=True)
        else:
            graph = torch.export.export(block, (x,)).module()
        made = graph(x)
        monkeypatch.setattr(cpu_strips, "use_strips", lambda *_: False)
        torch.testing.assert_close(made, block(x), rtol=0, atol=0)


def test_meta_maps_go_through_the_layers() -> None:
    with torch.device("meta"), torch.no_grad():
        block, cross = (
            TransformerBlock(8, num_heads=2, ffn_expansion=2),
            CrossAttention(8, num_heads=2),
        )
        x = torch.empty(1, 8, 6, 5)
        assert cross(block(x), x).shape == x.shape


@pytest.mark.parametrize("kind", ["self", "cross"])
@torch.no_grad()
def test_the_last_pass_over_tiles_makes_no_queries_and_keys(kind: str) -> None:
    """Counted: two of three projections and contexts, and the sums over the pixels, are left out."""
    num_pixels, channels, num_heads = 7 * 5, 8, 2
    x, other = torch.randn(2, 1, channels, 7, 5)
    cross = random_weights(CrossAttention(channels, num_heads=num_heads))
    block = random_weights(TransformerBlock(channels, num_heads=num_heads, ffn_expansion=2.0))

    def run() -> torch.Tensor:
        return cross(x, other) if kind == "cross" else block.attention(x, block.attention_norm)

    alone, counts = run(), []
    with sums_of(cross if kind == "cross" else block) as (layer,):
        for last in (False, True):
            layer.begin_pass(last=last)
            with FlopCounterMode(display=False) as counter:
                made = run()
            counts.append(counter.get_total_flops())
    torch.testing.assert_close(made, alone, rtol=1e-5, atol=1e-5)
    projections, contexts = 2 * channels * channels, 2 * channels * 9
    assert counts[0] - counts[1] == 2 * num_pixels * (projections + contexts)
