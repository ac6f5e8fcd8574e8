"""Forecast the time and the bytes of shards for any number of cores, from measured costs.

Time and bytes of a scene are proportional to its pixels, so costs are per megapixel of a pair (scenes
with one camera cost less than forecast). A cost belongs to what decides the bytes of a shard
(`ShardConfig`), and to nothing else.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipelines.datasets.plan import ShardConfig, ShardPlan, ShardSpec
from pipelines.datasets.shards.sample import make_sample
from pipelines.datasets.shards.writing import WrittenShard, write_shard
from pipelines.sources.scenes import Read, read_file
from pipelines.store.files import write_whole
from pipelines.store.folders import LocalFolder
from pipelines.store.seeding import digest_of

_COSTS = "costs"
_COUNT = re.compile(r"[1-9][0-9]{0,3}")


class SceneCost(BaseModel):
    """Seconds of a core and bytes, per megapixel of a pair; `source` says where they are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_s: float = Field(gt=0)
    num_bytes: float = Field(gt=0)
    num_scenes: int = Field(gt=0)
    source: str


class ClusterSize(BaseModel):
    """Nodes of so many cores each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_nodes: int = Field(gt=0)
    cores_per_node: int = Field(gt=0)

    @classmethod
    def parse(cls, text: str) -> ClusterSize:
        """Read `NODESxCORES`. Raises ValueError when it is not that."""
        nodes, cross, cores = text.partition("x")
        if not (cross and _COUNT.fullmatch(nodes) and _COUNT.fullmatch(cores)):
            raise ValueError(
                f"--cluster {text[:40]}: write NODESxCORES, for example 64x16, each below 10000"
            )
        return cls(num_nodes=int(nodes), cores_per_node=int(cores))

    @property
    def num_cores(self) -> int:
        """Cores of all nodes."""
        return self.num_nodes * self.cores_per_node


class Forecast(BaseModel):
    """Seconds until the last shard is there, seconds that cores work, bytes of all shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock_s: float
    core_s: float
    num_bytes: float


def calibrate(plan: ShardPlan, read: Read = read_file) -> SceneCost:
    """Measure the cost on a few scenes of two shards, written in this process and dropped.

    The CPU's seconds count, which neighbours on the cores do not change, and with them the waiting for
    sources that are not on this disk. Writing to a store is not in them.
    """
    places = np.linspace(0, len(plan) - 1, min(2, len(plan)), dtype=int)
    specs = [_few_scenes(plan[int(place)]) for place in places]
    # The first scene also loads what the others find loaded.
    make_sample(specs[0].scenes[0], specs[0], read)
    waiting = _Waiting(read)
    with TemporaryDirectory(prefix="calibrate-") as folder:
        root = LocalFolder(Path(folder))
        made = [write_shard(spec, root, waiting) for spec in specs]
    remote = any(
        "://" in scene.source(scene.cameras[0])[0] for spec in specs for scene in spec.scenes
    )
    megapixels = sum(shard.pixels for shard in made) / 1e6
    num_scenes = sum(shard.info.num_scenes for shard in made)
    return SceneCost(
        core_s=(sum(shard.cpu_s for shard in made) + remote * waiting.seconds) / megapixels,
        num_bytes=sum(shard.info.num_bytes for shard in made) / megapixels,
        num_scenes=num_scenes,
        source=f"{num_scenes} scenes made here just now",
    )


def _few_scenes(spec: ShardSpec) -> ShardSpec:
    """As many of a shard's scenes as a contrastive group needs, all made and nothing copied."""
    few = spec.scenes[: spec.config.num_positives + 1]
    return spec.model_copy(update={"scenes": few, "older": None})


class _Waiting:
    """Reads, and counts the seconds in which it did not compute."""

    def __init__(self, read: Read) -> None:
        self._read, self.seconds = read, 0.0

    def __call__(self, uri: str) -> bytes:
        clock_s, cpu_s = time.perf_counter(), time.process_time()
        data = self._read(uri)
        self.seconds += (time.perf_counter() - clock_s) - (time.process_time() - cpu_s)
        return data


def cost_of_run(shards: Sequence[WrittenShard], *, when: str, num_cores: int) -> SceneCost:
    """The cost of a run whose shards were made, not copied: the clock of its tasks, with all waiting."""
    megapixels = sum(shard.pixels for shard in shards) / 1e6
    num_scenes = sum(shard.info.num_scenes for shard in shards)
    return SceneCost(
        core_s=sum(shard.clock_s for shard in shards) / megapixels,
        num_bytes=sum(shard.info.num_bytes for shard in shards) / megapixels,
        num_scenes=num_scenes,
        source=f"the run of {when}: {num_scenes} scenes on {num_cores} cores",
    )


def forecast(plan: ShardPlan, cost: SceneCost, num_cores: int) -> Forecast:
    """Hand the shards out in order, each to the core that is free first, as tasks are."""
    seconds = [pixels / 1e6 * cost.core_s for pixels in plan.pixels()]
    free_at = [0.0] * min(num_cores, max(len(seconds), 1))
    for spent_s in seconds:
        heapq.heapreplace(free_at, free_at[0] + spent_s)
    return Forecast(
        clock_s=max(free_at),
        core_s=sum(seconds),
        num_bytes=sum(plan.pixels()) / 1e6 * cost.num_bytes,
    )


def write_cost(work: Path, config: ShardConfig, root_uri: str, cost: SceneCost) -> None:
    """Store the cost of a run for the next forecast of the same recipe and place."""
    write_whole(_cost_file(work, config, root_uri), cost.model_dump_json(indent=1).encode())


def read_cost(work: Path, config: ShardConfig, root_uri: str) -> SceneCost | None:
    """The cost that a former run stored; None when there was none."""
    path = _cost_file(work, config, root_uri)
    return SceneCost.model_validate_json(path.read_text()) if path.exists() else None


def _cost_file(work: Path, config: ShardConfig, root_uri: str) -> Path:
    # A disk and a store take different times; another prefix of the store does not.
    place = root_uri.partition("://")[0] if "://" in root_uri else "disk"
    return work / _COSTS / f"{digest_of([config.address(), place])[:16]}.json"
