"""Batches of a dataset version, by step: an order of its samples and an exact position in it.

The stream is a function of (seed, world size, batch size, rank, step): it has no state, so a resumed
run continues the same stream by starting at its step, every rank gets the same number of batches,
and within a pass no sample is seen twice, on any rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.batches.decoding import load_group, load_single
from pipelines.batches.samplers import (
    GroupSample,
    Sample,
    SamplerName,
    check_fields,
    check_operators,
    samples_of,
)
from pipelines.datasets.shards import open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import Folder
from pipelines.store.seeding import rng_at

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LateBatches:
    """What batches are like from `from_step` on; a smaller one leaves the rest of its samples out."""

    from_step: int
    batch_size: int
    crop_px: int


class ShardBatches:
    """Batches of a dataset version, by step. `fields` are the ones that are decoded, no others.

    Raises ValueError for a field that the sampler does not have, for an operator field where a
    degradation has no operator, and when the version has no sample for the sampler.
    """

    def __init__(
        self,
        version: DatasetVersion,
        root: Folder,
        *,
        fields: Sequence[str],
        batch_size: int,
        crop_px: int,
        seed: int,
        sampler: SamplerName = "groups",
        rank: int = 0,
        world_size: int = 1,
        late: LateBatches | None = None,
    ) -> None:
        check_fields(sampler, fields)
        self._fields = tuple(fields)
        self._batch_size, self._crop_px, self._seed = batch_size, crop_px, seed
        self._rank, self._world_size, self._late = rank, world_size, late
        self._samples = _open_samples(version, root, sampler)
        self._cached_order = (-1, np.empty(0, np.int64))
        if not {"op", "vi_op", "ir_op"}.isdisjoint(fields):
            check_operators(self._samples)

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
        positions = self.positions(step)
        rows = [self._row(position, crop_px) for position in positions]
        batch = {field: torch.stack([row[field] for row in rows]) for field in self._fields}
        return batch | {"position": torch.tensor(positions)}

    def scenes_at(self, step: int) -> list[str]:
        """Scene ids of this rank's batch of `step`, for error messages."""
        return [self.sample_at(position).scene for position in self.positions(step)]

    def _row(self, position: int, crop_px: int) -> dict[str, Tensor]:
        sample, rng = self.sample_at(position), rng_at(self._seed, "crop", str(position))
        if isinstance(sample, GroupSample):
            return load_group(sample, self._fields, crop_px=crop_px, rng=rng)
        return load_single(sample, self._fields, crop_px=crop_px, rng=rng)


def _open_samples(version: DatasetVersion, root: Folder, sampler: SamplerName) -> list[Sample]:
    readers = [open_shard(root, info) for info in version.shards]
    num_groups = sum(len(meta.groups) for reader in readers for meta in reader.metas.values())
    if num_groups != version.num_groups:
        raise ValueError(
            f"{version.name}: {num_groups} groups in its shards but {version.num_groups} "
            "in its manifest; run jobs.generate again"
        )
    samples = [sample for reader in readers for sample in samples_of(reader, sampler)]
    if not samples:
        raise ValueError(
            f"{version.name} has no sample for sampler {sampler!r}: none of its scenes has both "
            'cameras; use sampler "singles"'
        )
    return samples
