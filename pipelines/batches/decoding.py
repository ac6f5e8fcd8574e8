"""From a sample to tensors: windows and turns are drawn, the fields in use decoded.

K positives, M negatives, C channels, H W pixels (the crop's side).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from degradations.catalogue import Modality
from degradations.operators import block_side, operator_numbers, task_names
from pipelines.batches.samplers import CAMERAS, GroupSample, SingleSample
from pipelines.datasets.shards.reading import ShardReader

Corner = tuple[int, int]


def load_group(
    sample: GroupSample, fields: Sequence[str], *, crop_px: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Read and cut one sample of "groups" or "pairs": uint8, without the batch axis.

    One window for all pictures of the anchors' scene, one of its own for each positive, one of eight
    flips and rotations for everything (spec 2.3). The draws do not depend on `fields`.
    """
    group, scene, reader = sample.group, sample.scene, sample.reader
    at = _draw_corner(reader, scene, crop_px, rng, members=(f"vi_{group.vi}", f"ir_{group.ir}"))
    vi_at = [_draw_corner(reader, other, crop_px, rng) for other in group.vi_positives]
    ir_at = [_draw_corner(reader, other, crop_px, rng) for other in group.ir_positives]
    cut = partial(_cut, reader, crop_px=crop_px, turn=int(rng.integers(8)))
    vi, ir = f"vi_{group.vi}", f"ir_{group.ir}"
    sources: dict[str, Callable[[], Tensor]] = {
        "vi_lq": lambda: cut(scene, vi, at),
        "ir_lq": lambda: cut(scene, ir, at),
        "vi_gt": lambda: cut(scene, "vi_gt", at),
        "ir_gt": lambda: cut(scene, "ir_gt", at),
        "vi_pos": lambda: torch.stack(  # K 3 H W
            [
                cut(other, vi, corner)
                for other, corner in zip(group.vi_positives, vi_at, strict=True)
            ]
        ),
        "ir_pos": lambda: torch.stack(  # K 1 H W
            [
                cut(other, ir, corner)
                for other, corner in zip(group.ir_positives, ir_at, strict=True)
            ]
        ),
        # Negatives of both modalities share an axis, so infrared ones are replicated to 3 channels.
        "neg": lambda: torch.stack(  # M-1 3 H W
            [cut(scene, member, at).expand(3, -1, -1) for member in group.negatives]
        ),
        "vi_op": lambda: _operator(reader, scene, vi),
        "ir_op": lambda: _operator(reader, scene, ir),
        "vi_task": lambda: _task("vi", group.vi),
        "ir_task": lambda: _task("ir", group.ir),
        "seed": lambda: torch.tensor(int(rng.integers(2**62))),
    }
    return {field: sources[field]() for field in fields}


def load_single(
    sample: SingleSample, fields: Sequence[str], *, crop_px: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Read and cut one picture: `lq` and `gt` 3 H W uint8, infrared replicated to 3 channels.

    One window and one of eight turns for both; `camera` is 0 for infrared and 1 for visible.
    """
    scene, reader, camera = sample.scene, sample.reader, sample.camera
    member = f"{camera}_{sample.variant}"
    at = _draw_corner(reader, scene, crop_px, rng, members=(member,))
    cut = partial(_cut, reader, scene, at=at, crop_px=crop_px, turn=int(rng.integers(8)))
    sources: dict[str, Callable[[], Tensor]] = {
        "lq": lambda: cut(member).expand(3, -1, -1),  # 3 H W
        "gt": lambda: cut(f"{camera}_gt").expand(3, -1, -1),  # 3 H W
        "camera": lambda: torch.tensor(CAMERAS.index(camera)),
        "op": lambda: _operator(reader, scene, member),
        "task": lambda: _task(camera, sample.variant),
        "seed": lambda: torch.tensor(int(rng.integers(2**62))),
    }
    return {field: sources[field]() for field in fields}


def to_floats(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with its pictures as float32 [0, 1]; on its device, where a quarter of the bytes arrived."""
    return {
        field: value.to(torch.float32).div_(255) if value.dtype == torch.uint8 else value
        for field, value in batch.items()
    }


def _operator(reader: ShardReader, scene: str, member: str) -> Tensor:
    return torch.from_numpy(operator_numbers(reader.metas[scene].chain(member)))  # 3


def _task(camera: Modality, variant: str) -> Tensor:
    known = task_names(camera)
    if variant not in known:
        raise ValueError(
            f"{camera} {variant!r} has no task number, only these have: {', '.join(known)}; train on a "
            "dataset of those"
        )
    return torch.tensor(known.index(variant))


def _draw_corner(
    reader: ShardReader,
    scene: str,
    crop_px: int,
    rng: np.random.Generator,
    *,
    members: Sequence[str] = (),
) -> Corner:
    """Draw the top left corner of a window; 0 along a side that is shorter than the crop.

    It does not cut the blocks of a coarse picture among `members`, which an operator could not express.
    """
    meta = reader.metas[scene]
    side = math.lcm(*(block_side(meta.variants.get(member, ())) for member in members))
    if crop_px % side:
        raise ValueError(
            f"crop_px={crop_px} cuts the blocks of {side} pixels of {scene!r}, which is coarse; choose a "
            f"multiple of {side}"
        )
    return (
        side * int(rng.integers(max(meta.height - crop_px, 0) // side + 1)),
        side * int(rng.integers(max(meta.width - crop_px, 0) // side + 1)),
    )


def _cut(
    reader: ShardReader, scene: str, member: str, at: Corner, *, crop_px: int, turn: int
) -> Tensor:
    """C×H×W uint8 of a window, turned by `turn` % 4 quarters and flipped if > 3."""
    top, left = at
    rows = reader.image(scene, member, rows=(top, top + crop_px))
    window = rows[:, left : left + crop_px]  # H W C
    below, right = crop_px - window.shape[0], crop_px - window.shape[1]
    if below or right:
        # A picture smaller than the crop is mirrored at its bottom and right, as inference pads.
        window = np.pad(window, ((0, below), (0, right), (0, 0)), mode="symmetric")
    turned = np.rot90(window, turn % 4)
    if turn >= 4:
        turned = turned[::-1]
    return torch.from_numpy(turned.transpose(2, 0, 1).copy())  # C H W
