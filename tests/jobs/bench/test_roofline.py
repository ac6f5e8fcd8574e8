"""Kernels are counted as they would be launched; a step takes what its slowest bound takes."""

import pytest
import torch
from torch.nn import functional as F

from jobs.bench.roofline import Card, Counted, count_step, counting
from jobs.config import shrink_training
from jobs.recipes import TRAINING

CARD = Card("toy", bf16=200.0, float32=100.0, bandwidth=10.0)


def test_products_and_views_are_told_apart() -> None:
    x, weight = torch.empty(4, 8, device="meta"), torch.empty(16, 8, device="meta")
    with counting() as counted:
        F.linear(x, weight).unsqueeze(0).expand(3, -1, -1).relu()
    product, relu = counted.kernels
    assert product == (2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 4 * 16))
    # An expanded map is read as what it is; what is made of it is written whole.
    assert relu == (0, 4 * (4 * 16 + 3 * 4 * 16))


def test_a_kernel_takes_what_its_slower_bound_takes() -> None:
    counted = Counted([(1000, 10), (10, 1000), (0, 100)])
    assert counted.seconds(CARD, precision="float32") == pytest.approx(10 + 100 + 10)
    assert counted.seconds(CARD, precision="bf16") == pytest.approx(5 + 50 + 10)


def test_a_step_of_twice_the_batch_has_as_many_kernels() -> None:
    config = shrink_training(TRAINING["dspfusion_stage1_demo"]())
    one, two = (count_step(config, batch_size=size) for size in (2, 4))
    assert len(one.kernels) == len(two.kernels) > 500
    flops = [sum(flops for flops, _ in counted.kernels) for counted in (one, two)]
    assert 1.8 < flops[1] / flops[0] <= 2
