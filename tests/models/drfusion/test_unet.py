import pytest
import torch

from models.drfusion.config import DRFusionConfig, full, tiny
from models.drfusion.unet import UNet, sinusoid


def test_published_size() -> None:
    with torch.device("meta"):
        network = UNet(full())
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_773_116
    decoder = sum(x.numel() for x in network.noise_decoder.blocks.parameters())
    assert decoder == 4_682_304


@pytest.mark.parametrize("size", [(16, 16), (18, 26), (20, 38)])
def test_any_even_size(size: tuple[int, int]) -> None:
    noise, weight = UNet(tiny()).eval()(torch.rand(2, 3, *size), 3)
    assert noise.shape == (2, 3, *size)
    assert weight.shape == (2, 1, *size)
    assert 0 < weight.min() < weight.max() < 1


def test_odd_sides_are_refused() -> None:
    with pytest.raises(AssertionError, match="even"):
        UNet(tiny())(torch.rand(1, 3, 16, 17), 1)


def test_the_step_matters_and_its_embedding_has_cosines_first() -> None:
    network, x = UNet(tiny()).eval(), torch.rand(1, 3, 16, 16)
    assert not torch.equal(network(x, 1)[0], network(x, 2)[0])
    assert sinusoid(0, 64, x)[0].tolist() == [1] * 32 + [0] * 32
    torch.testing.assert_close(sinusoid(3, 64, x)[0, 0], torch.tensor(3.0).cos())


def test_a_width_that_groups_do_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="width 24 must be a multiple of num_groups 32"):
        DRFusionConfig(width=24)
