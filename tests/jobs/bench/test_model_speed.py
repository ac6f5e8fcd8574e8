"""Both sides of a measurement do the same work; the speed itself is the command's to tell."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from jobs.bench import model_speed as bench_model
from jobs.bench.model_speed import Setup, describe_bf16, peak_mib, top_kernels
from models import find_system
from tests.conftest import tiny_fuser
from tests.models.dspfusion.bench_sides import make_work

SYSTEM = find_system("dspfusion")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["stage1", "stage2"])
def test_both_sides_take_the_same_steps(part: str) -> None:
    ours, plain = (make_work(part, side, Setup(crop_px=16)) for side in ("ours", "plain"))
    for _ in range(2):  # The second starts from the weights that the first left behind.
        torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=0)


def test_the_kernels_that_take_longest_are_named() -> None:
    assert "Self CPU" in top_kernels(lambda: torch.rand(8, 8).matmul(torch.rand(8, 8)), Setup())


@pytest.mark.slow
def test_peak_is_the_measured_process_own() -> None:
    """A quarter of a gigabyte in this process does not show in the other's peak."""
    before = peak_mib("dspfusion", "stage2", "ours", Setup(crop_px=16))
    here = torch.ones(64, 1024, 1024)
    assert peak_mib("dspfusion", "stage2", "ours", Setup(crop_px=16)) < before + 128
    assert here.sum() > 0
    assert before > 50


def test_bf16_names_the_pairs_it_was_measured_on(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    for modality in ("vi", "ir"):
        (tmp_path / modality).mkdir()
        for name in "abcd":
            assert cv2.imwrite(str(tmp_path / modality / f"{name}.png"), levels)
    line = describe_bf16(SYSTEM, tiny_fuser(), tmp_path)
    assert "real pairs" in line
    values = [entry.split() for entry in line.split(": ")[1].split(", ")]
    assert [name for name, _ in values] == ["a", "b", "c"]
    assert all(30 < float(psnr) < 120 for _, psnr in values)


def test_bf16_without_pairs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "HEIGHT_PX", 16)
    monkeypatch.setattr(bench_model, "WIDTH_PX", 16)
    line = describe_bf16(SYSTEM, tiny_fuser(), tmp_path / "none")
    assert "a random picture, for want of" in line
    (tmp_path / "vi").mkdir()
    (tmp_path / "ir").mkdir()
    with pytest.raises(ValueError, match="no two pictures of one name"):
        describe_bf16(SYSTEM, tiny_fuser(), tmp_path)
