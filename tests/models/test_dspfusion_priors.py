import pytest
import torch
from torch.nn import functional as F

from models.dspfusion.priors import pool_to_grid


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (18, 5), (13, 31)])
@pytest.mark.parametrize("grid", [3, 4])
def test_pooling_is_the_adaptive_one(size: tuple[int, int], grid: int) -> None:
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(pool_to_grid(x, grid), F.adaptive_avg_pool2d(x, grid))
