import pytest
import torch

from models.color import from_luma, to_chroma, to_gray, to_rgb


def solid(r: float, g: float, b: float) -> torch.Tensor:
    return torch.tensor([r, g, b]).view(1, 3, 1, 1).expand(1, 3, 2, 2)


def test_gray_known_values():
    torch.testing.assert_close(to_gray(solid(1, 0, 0)), torch.full((1, 1, 2, 2), 0.299))
    torch.testing.assert_close(to_gray(solid(1, 1, 1)), torch.ones(1, 1, 2, 2))


def test_chroma_known_values():
    for channel in to_chroma(solid(0.4, 0.4, 0.4)):
        torch.testing.assert_close(channel, torch.zeros(1, 1, 2, 2))
    cb, cr = to_chroma(solid(0, 0, 1))
    torch.testing.assert_close(cb, torch.full((1, 1, 2, 2), 0.5))
    torch.testing.assert_close(cr, torch.full((1, 1, 2, 2), -0.081312))


def test_to_rgb_repeats_the_channel_of_any_batch():
    for shape in ((2, 1, 4, 4), (2, 3, 1, 4, 4)):
        gray = torch.rand(shape)
        rgb = to_rgb(gray)
        assert rgb.shape == (*shape[:-3], 3, 4, 4)
        for channel in rgb.split(1, dim=-3):
            assert torch.equal(channel, gray)


def test_to_rgb_refuses_color():
    with pytest.raises(ValueError, match="1 channel"):
        to_rgb(torch.rand(1, 3, 4, 4))


def test_from_luma_is_the_inverse_of_gray_and_chroma():
    rgb = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_luma(to_gray(rgb), *to_chroma(rgb)), rgb, atol=2e-6, rtol=0)
    assert from_luma(torch.full((1, 1, 1, 1), 1.2), *[torch.zeros(1, 1, 1, 1)] * 2).max() == 1
