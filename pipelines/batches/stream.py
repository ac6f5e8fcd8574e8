"""Batches of a dataset version, by step: an order of its samples and an exact position in it.

The stream is a function of (seed, version, step): the batches of all ranks together hold the same samples
for any number of ranks. It has no state, so a resumed run continues the same stream by starting at its
step, every rank gets the same number of batches, and within a pass no sample is seen twice, on any rank
(of "singles" a picture of a rare kind is: `balance.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.batches.balance import balanced_ends
from pipelines.batches.decoding import load_group, load_single
from pipelines.batches.open_shards import MOST_OPEN, OpenShards
from pipelines.batches.order import StreamOrder
from pipelines.batches.samplers import (
    GroupSample,
    Sample,
    SamplerName,
    check_fields,
    check_operators,
)
from pipelines.datasets.group_index import count_by_shard, read_group_rows
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder
from pipelines.store.seeding import rng_at

Batch = dict[str, Tensor]
_OPERATORS = {"op", "vi_op", "ir_op"}


@dataclass(frozen=True)
class LateBatches:
    """What batches are like from `from_step` on; a smaller one leaves the rest of its samples out.

    `num_accumulated` batches share an optimiser's step, of which the last samples are left out.
    """

    from_step: int
    batch_size: int
    crop_px: int
    num_accumulated: int = 1


@dataclass(frozen=True)
class Batching:
    """What batches are like on every rank. `fields` are the ones that are decoded, no others.

    `window_shards` is how many shards a lane is shuffled over at a time (`order.py`).
    """

    fields: tuple[str, ...]
    batch_size: int
    crop_px: int
    seed: int
    sampler: SamplerName = "groups"
    late: LateBatches | None = None
    window_shards: int = 2

    def late_at(self, step: int) -> LateBatches | None:
        """What the batch of a late step is like instead."""
        return self.late if self.late and step >= self.late.from_step else None


class ShardBatches:
    """Batches of a dataset version, by step.

    Raises ValueError for a field that the sampler does not have, for an operator field where a degradation
    has no operator, when the version has no sample for the sampler, and for a window of more shards than
    may be open.
    """

    def __init__(
        self,
        version: DatasetVersion,
        root: Folder,
        batching: Batching,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        sampler, window_shards = batching.sampler, batching.window_shards
        check_fields(sampler, batching.fields)
        self._batching, self._rank, self._world_size = batching, rank, world_size
        rows, counts = _count_samples(version, root, sampler, batching.fields)
        # In a balanced pass a rare picture has several turns; elsewhere each sample has one.
        self._turn_ends = (
            balanced_ends(rows, [shard.name for shard in version.shards])
            if sampler == "singles"
            else [np.arange(1, count + 1) for count in counts]
        )
        num_turns = np.array([ends[-1] if len(ends) else 0 for ends in self._turn_ends], np.int64)
        self._order = StreamOrder(num_turns, seed=batching.seed, window_shards=window_shards)
        self._shards = OpenShards(version, root, sampler, counts.tolist())
        num_open = len(self._order.shards_near(0, rank=rank, world_size=world_size)[0])
        if num_open > MOST_OPEN:
            raise ValueError(
                f"window_shards is {window_shards}: rank {rank} of {world_size} would have {num_open} "
                f"shards open, {MOST_OPEN} are the most; lower it, or take more workers"
            )

    def __len__(self) -> int:
        """Turns of samples in one pass over the data, all ranks together."""
        return len(self._order)

    def positions(self, step: int) -> range:
        """Positions in the endless stream of samples that this rank's batch of `step` takes.

        Ranks take turns, so that each reads the same lanes at every step.
        """
        late, whole = self._batching.late_at(step), self._batching.batch_size
        size = late.batch_size if late else whole
        optimiser_step, part = divmod(step, late.num_accumulated if late else 1)
        per_step = whole * (late.num_accumulated if late else 1)
        first = (optimiser_step * per_step + part * size) * self._world_size + self._rank
        return range(first, first + size * self._world_size, self._world_size)

    def sample_at(self, position: int) -> Sample:
        """The sample at a position: pass after pass, each in an order of its own."""
        shard, place = self._place(position)
        with self._shards.reading(shard) as samples:
            return samples[place]

    def _place(self, position: int) -> tuple[int, int]:
        """Shard, and place among its samples, of a position."""
        shard, turn = self._order.at(position)
        return shard, int(np.searchsorted(self._turn_ends[shard], turn, "right"))

    def batch(self, step: int) -> Batch:
        """Decode and cut this rank's batch of `step` (0-based), pictures as uint8; opens shards ahead."""
        positions, batching = self.positions(step), self._batching
        crop_px = (batching.late_at(step) or batching).crop_px
        rows = [self._row(position, crop_px) for position in positions]
        ranks = {"rank": self._rank, "world_size": self._world_size}
        now, after = self._order.shards_near(positions[-1], **ranks)
        self._shards.open_ahead([*now, *after])
        batch = {field: torch.stack([row[field] for row in rows]) for field in batching.fields}
        return batch | {"position": torch.tensor(positions)}

    def scenes_at(self, step: int) -> list[str]:
        """Scene ids of this rank's batch of `step`, for error messages."""
        return [self.sample_at(position).scene for position in self.positions(step)]

    def close(self) -> None:
        """Close the shards that are open."""
        self._shards.close()

    def _row(self, position: int, crop_px: int) -> dict[str, Tensor]:
        shard, place = self._place(position)
        fields = self._batching.fields
        rng = rng_at(self._batching.seed, "crop", str(position))
        with self._shards.reading(shard) as samples:
            sample = samples[place]
            try:
                if isinstance(sample, GroupSample):
                    return load_group(sample, fields, crop_px=crop_px, rng=rng)
                return load_single(sample, fields, crop_px=crop_px, rng=rng)
            except ValueError as error:
                raise ValueError(f"{self._shards.place_of(shard)}: {error}") from error


def _count_samples(
    version: DatasetVersion, root: Folder, sampler: SamplerName, fields: Sequence[str]
) -> tuple[pa.Table, np.ndarray]:
    """The index's rows, and samples of each shard; checks operators where `fields` hold some."""
    column = "pictures" if sampler == "singles" else "vi"
    linear = not _OPERATORS.isdisjoint(fields)
    more = ["scene", "natives", "pictures", "ir"] if linear else []
    rows = read_group_rows(root, version.name, list(dict.fromkeys(["shard", column, *more])))
    counts = count_by_shard(rows, column, [shard.name for shard in version.shards])
    if sampler != "singles" and counts.tolist() != [shard.num_groups for shard in version.shards]:
        raise ValueError(
            f"{version.name}: {counts.sum()} groups in its index, {version.num_groups} in its manifest, "
            "or in other shards; run jobs.generate again"
        )
    if not counts.sum():
        raise ValueError(
            f"{version.name} has no sample for sampler {sampler!r}: none of its scenes has both "
            'cameras; use sampler "singles"'
        )
    if linear:
        check_operators(rows, sampler)
    return rows, counts
