import pytest
import torch
from torch.nn import functional as F

from models.dspfusion.config import Stage1Config, small
from models.dspfusion.priors import pool_to_grid
from models.dspfusion.stage1 import Stage1


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (18, 5), (13, 31)])
@pytest.mark.parametrize("grid", [3, 4])
def test_pooling_is_the_adaptive_one(size: tuple[int, int], grid: int) -> None:
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(pool_to_grid(x, grid), F.adaptive_avg_pool2d(x, grid))


def test_embeddings_differ_from_the_start_if_they_are_to_be_contrasted() -> None:
    """With torch's first weights all images have one embedding, nearly."""
    torch.manual_seed(0)
    flat = 0.4 + 0.2 * torch.rand(6, 1, 1, 1)
    images = (flat + torch.rand(6, 1, 1, 1) * torch.randn(6, 3, 32, 32)).clamp(0, 1)
    nearest = []
    for start in ("torch", "contrast"):
        encoder = Stage1(Stage1Config(model=small(), degradation_start=start)).degradation
        embeddings = F.normalize(encoder.type_vector(encoder(images)), dim=1)
        nearest.append((embeddings @ embeddings.T).min())
    assert nearest[0] > 0.99
    assert nearest[1] < 0.9
