"""Both sides of a measurement do the same work; the speed itself is the command's to tell."""

import pytest
import torch

from jobs.bench_model import Part, make_work, peak_mib


@pytest.mark.parametrize("part", ["stage1", "stage2"])
def test_both_sides_take_the_same_steps(part: Part) -> None:
    ours, plain = (make_work(part, side, crop_px=16) for side in ("ours", "plain"))
    for _ in range(2):  # The second starts from the weights that the first left behind.
        torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=0)


@pytest.mark.slow
def test_peak_is_the_measured_process_own() -> None:
    """A quarter of a gigabyte in this process does not show in the other's peak."""
    before = peak_mib("stage2", "ours", crop_px=16)
    here = torch.ones(64, 1024, 1024)
    assert peak_mib("stage2", "ours", crop_px=16) < before + 128
    assert here.sum() > 0
    assert before > 50
