import time

import torch
from torch import Tensor, nn

from models.system import Fused, Hints
from pipelines.evaluation.efficiency import measure_efficiency


class Mix(nn.Module):
    """A 1×1 convolution of both cameras: 4·3 weights, as many MACs a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        return Fused(self.conv(torch.cat([vi, ir], dim=1)))


def test_costs_of_a_known_network() -> None:
    started_s = time.perf_counter()
    found = measure_efficiency("mix", Mix(), torch.rand(1, 3, 10, 20), torch.rand(1, 1, 10, 20), {})
    assert (found.parameters, found.macs) == (12, 12 * 10 * 20)
    assert (found.width, found.height) == (20, 10)
    assert 0 < found.seconds < time.perf_counter() - started_s


def test_memory_is_what_fusing_adds() -> None:
    def greedy(vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        return Fused(torch.ones(64 * 2**20 // 4).sum() + vi)

    found = measure_efficiency("greedy", greedy, torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8), {})
    assert found.parameters is found.macs is None
    assert found.peak_mib is None or 50 < found.peak_mib < 90
