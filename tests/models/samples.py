"""Random batches in the shapes of the contract."""

import torch
from torch import Tensor


def training_batch(size: int, side: int, *, seed: int = 0) -> dict[str, Tensor]:
    """All fields of both stages: K = 3 positives, M - 1 = 6 negatives."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, side, side, generator=generator)

    return {
        "vi_lq": draw(size, 3),
        "vi_gt": draw(size, 3),
        "ir_lq": draw(size, 1),
        "ir_gt": draw(size, 1),
        "vi_pos": draw(size, 3, 3),
        "ir_pos": draw(size, 3, 1),
        "neg": draw(size, 6, 3),
        "seed": torch.arange(size),
    }
