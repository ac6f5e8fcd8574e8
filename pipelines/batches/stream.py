"""From shards to batches: groups resolved inside their shard, paired crops, an exact position.

B batch, K positives, M negatives, C channels, H W pixels.

The stream is a function of (seed, world size, batch size, rank, step): it has no state, so a resumed
run continues the same stream by starting at its step, every rank gets the same number of batches,
and within a pass no sample is seen twice, on any rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipelines.datasets.groups import Group
from pipelines.datasets.shards import ShardReader, open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder
from pipelines.store.seeding import rng_at

Batch = dict[str, Tensor]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sample:
    """Where a training sample lies: its shard, the anchor's scene and its group."""

    reader: ShardReader
    scene: str
    group: Group


@dataclass(frozen=True)
class LateBatches:
    """What batches are like from `from_step` on; a smaller one leaves the rest of its samples out."""

    from_step: int
    batch_size: int
    crop_px: int


class ShardBatches:
    """Batches of a dataset version, by step. `fields` are the ones that are decoded, no others."""

    def __init__(
        self,
        version: DatasetVersion,
        root: Folder,
        *,
        fields: Sequence[str],
        batch_size: int,
        crop_px: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        late: LateBatches | None = None,
    ) -> None:
        unknown = sorted(set(fields) - FIELD_NAMES)
        if unknown:
            raise ValueError(f"no such batch fields: {unknown}; there are {sorted(FIELD_NAMES)}")
        self._fields = tuple(fields)
        self._batch_size, self._crop_px, self._seed = batch_size, crop_px, seed
        self._rank, self._world_size, self._late = rank, world_size, late
        self._samples: list[Sample] = []
        self._cached_order = (-1, np.empty(0, np.int64))
        for info in version.shards:
            reader = open_shard(root, info)
            self._samples += [
                Sample(reader, scene, group)
                for scene, meta in sorted(reader.metas.items())
                for group in meta.groups
            ]
        if len(self._samples) != version.num_groups:
            raise ValueError(
                f"{version.name}: {len(self._samples)} groups in its shards but {version.num_groups} "
                "in its manifest; run jobs.generate again"
            )

    def __len__(self) -> int:
        """Samples in one pass over the data, all ranks together."""
        return len(self._samples)

    def positions(self, step: int) -> range:
        """Positions in the endless stream of samples that this rank's batch of `step` takes."""
        start = (step * self._world_size + self._rank) * self._batch_size
        return range(start, start + self._shape(step)[0])

    def _shape(self, step: int) -> tuple[int, int]:
        """Samples and crop of the batch of `step`."""
        if self._late and step >= self._late.from_step:
            return self._late.batch_size, self._late.crop_px
        return self._batch_size, self._crop_px

    def sample_at(self, position: int) -> Sample:
        """The sample at a position: pass after pass, each in an order of its own."""
        pass_index, place = divmod(position, len(self._samples))
        return self._samples[int(self._order(pass_index)[place])]

    def _order(self, pass_index: int) -> np.ndarray:
        if self._cached_order[0] != pass_index:
            order = rng_at(self._seed, "order", str(pass_index)).permutation(len(self._samples))
            self._cached_order = (pass_index, order)
        return self._cached_order[1]

    def batch(self, step: int) -> Batch:
        """Decode and cut this rank's batch of `step` (0-based)."""
        crop_px = self._shape(step)[1]
        rows = [self._row(position, crop_px) for position in self.positions(step)]
        return {
            field: torch.stack([row[field] for row in rows])
            for field in (*self._fields, "position")
        }

    def scenes_at(self, step: int) -> list[str]:
        """Scene ids of this rank's batch of `step`, for error messages."""
        return [self.sample_at(position).scene for position in self.positions(step)]

    def _row(self, position: int, crop_px: int) -> dict[str, Tensor]:
        rng = rng_at(self._seed, "crop", str(position))
        row = load_sample(self.sample_at(position), self._fields, crop_px=crop_px, rng=rng)
        row["position"] = torch.tensor(position)
        if "seed" in self._fields:
            row["seed"] = torch.tensor(int(rng.integers(2**62)))
        return row


FIELD_NAMES = frozenset({"vi_lq", "vi_gt", "ir_lq", "ir_gt", "vi_pos", "ir_pos", "neg", "seed"})


def load_sample(
    sample: Sample, fields: Sequence[str], *, crop_px: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Read and cut one sample: float32 [0, 1] tensors, without the batch axis.

    One window for all pictures of the anchor's scene, one of its own for each positive, one of eight
    flips and rotations for everything (spec 2.3). The draws do not depend on `fields`.
    """
    group, scene, reader = sample.group, sample.scene, sample.reader
    height, width = _size(reader, scene)
    window = _draw_window(height, width, crop_px, rng)
    positives = (*group.vi_positives, *group.ir_positives)
    positive_windows = [_draw_window(*_size(reader, other), crop_px, rng) for other in positives]
    turn = int(rng.integers(8))

    def cut(of_scene: str, member: str, at: tuple[int, int]) -> Tensor:
        top, left = at
        rows = reader.image(of_scene, member, rows=(top, top + crop_px))
        return _to_tensor(_crop(rows, (0, left), crop_px), turn)

    num_vi = len(group.vi_positives)
    sources: dict[str, Callable[[], Tensor]] = {
        "vi_lq": lambda: cut(scene, f"vi_{group.vi}", window),
        "ir_lq": lambda: cut(scene, f"ir_{group.ir}", window),
        "vi_gt": lambda: cut(scene, "vi_gt", window),
        "ir_gt": lambda: cut(scene, "ir_gt", window),
        "vi_pos": lambda: torch.stack(  # K 3 H W
            [
                cut(other, f"vi_{group.vi}", at)
                for other, at in zip(group.vi_positives, positive_windows[:num_vi], strict=True)
            ]
        ),
        "ir_pos": lambda: torch.stack(  # K 1 H W
            [
                cut(other, f"ir_{group.ir}", at)
                for other, at in zip(group.ir_positives, positive_windows[num_vi:], strict=True)
            ]
        ),
        # Negatives of both modalities share an axis, so infrared ones are replicated to 3 channels.
        "neg": lambda: torch.stack(  # M-1 3 H W
            [cut(scene, member, window).expand(3, -1, -1) for member in group.negatives]
        ),
    }
    return {field: sources[field]() for field in fields if field in sources}


def _size(reader: ShardReader, scene: str) -> tuple[int, int]:
    meta = reader.metas[scene]
    return meta.height, meta.width


def _draw_window(
    height: int, width: int, crop_px: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the top left corner of a window; 0 along a side that is shorter than the crop."""
    return (
        int(rng.integers(max(height - crop_px, 0) + 1)),
        int(rng.integers(max(width - crop_px, 0) + 1)),
    )


def _crop(image: np.ndarray, corner: tuple[int, int], crop_px: int) -> np.ndarray:
    top, left = corner
    cut = image[top : top + crop_px, left : left + crop_px]
    missing = (crop_px - cut.shape[0], crop_px - cut.shape[1])
    if not any(missing):
        return cut
    # A picture smaller than the crop is mirrored at its bottom and right, as inference pads.
    return np.pad(cut, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")


def _to_tensor(image: np.ndarray, turn: int) -> Tensor:
    """H×W×C uint8 to C×H×W float32 [0, 1], turned by `turn` % 4 quarters and flipped if > 3."""
    turned = np.rot90(image, turn % 4)
    if turn >= 4:
        turned = turned[::-1]
    chw = np.ascontiguousarray(turned.transpose(2, 0, 1))
    return torch.from_numpy(chw).to(torch.float32) / 255  # C H W


def prefetch(make: Callable[[int], _T], steps: Iterable[int], *, depth: int = 4) -> Iterator[_T]:
    """Yield `make(step)` for each step in order, made up to `depth` ahead by one thread.

    One thread is enough: decoding releases the GIL, and a training step takes longer than its batch.
    """
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
