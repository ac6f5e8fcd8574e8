"""Random pairs with the hints of the contract."""

import torch
from torch import Tensor

CLEAN, NOISY, BLURRED, COARSE = [0.0, 0, 1], [0.05, 0, 1], [0.02, 2, 1], [0.01, 1.5, 4]


def pair(size: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(size, c, height, width, generator=generator) for c in (3, 1))


def hints(*rows: list[float]) -> dict[str, Tensor]:
    """The same operators for both cameras, a row a pair."""
    return {name: torch.tensor(rows) for name in ("vi_op", "ir_op")}


def batch(size: int, side: int) -> dict[str, Tensor]:
    vi, ir = pair(size, side, side)
    vi_gt, ir_gt = pair(size, side, side, seed=1)
    return {"vi_lq": vi, "ir_lq": ir, "vi_gt": vi_gt, "ir_gt": ir_gt, **hints(*[NOISY] * size)}
