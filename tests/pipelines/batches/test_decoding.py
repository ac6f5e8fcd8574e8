"""Windows of coarse pictures, and pictures without a task number."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.recipes.drfusion import drfusion_composite
from pipelines.batches.decoding import load_group
from pipelines.batches.samplers import samples_of
from pipelines.datasets.plan import plan_shards
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.shards.writing import write_shard
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder

FIELDS = ("ir_lq", "ir_op", "vi_op")


@pytest.fixture
def composite(tmp_path: Path, scenes: list[Scene]):
    root = LocalFolder(tmp_path)
    spec = plan_shards(drfusion_composite(), scenes[:3])[0]
    with closing(open_shard(root, write_shard(spec, root).info)) as reader:
        yield [*samples_of(reader, "pairs")]


def test_no_window_cuts_a_block(composite) -> None:
    corners = set()
    for draw in range(40):
        sample = composite[draw % len(composite)]
        batch = load_group(sample, FIELDS, crop_px=24, rng=np.random.default_rng(draw))
        blocks = batch["ir_lq"].reshape(6, 4, 6, 4).permute(0, 2, 1, 3).reshape(36, 16)
        assert torch.equal(blocks.amin(dim=1), blocks.amax(dim=1))
        corners.add(float(batch["ir_lq"][0, 0, 0]))
        torch.testing.assert_close(batch["vi_op"], torch.tensor([8 / 255, 2, 1]))
        torch.testing.assert_close(batch["ir_op"], torch.tensor([2 / 255, 2, 4]))
    assert len(corners) > 10


def test_a_window_that_would_cut_blocks_is_refused(composite) -> None:
    with pytest.raises(ValueError, match=r"crop_px=30 cuts the blocks of 4 pixels .*multiple of 4"):
        load_group(composite[0], FIELDS, crop_px=30, rng=np.random.default_rng(0))


def test_a_chain_has_no_task_number(composite) -> None:
    with pytest.raises(ValueError, match="has no task number, only these have: clean, blur"):
        load_group(composite[0], ("vi_task",), crop_px=24, rng=np.random.default_rng(0))
