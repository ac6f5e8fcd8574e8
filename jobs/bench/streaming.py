"""What the stream of batches takes: to start at millions of groups, to read ahead, to decode by threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from infra.settings import Settings
from jobs.bench.lines import Line
from jobs.locations import open_folder
from pipelines.batches.prefetch import prefetch
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.group_index import index_of
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.shards.markers import ShardInfo
from pipelines.datasets.versions import (
    DatasetVersion,
    digest_of_contents,
    manifest_of,
    read_version,
)
from pipelines.store.folders import Folder, LocalFolder
from pipelines.store.seeding import digest_of
from pipelines.training.process_memory import own_peak_mib

_THREADS = (1, 2, 4)
FIELDS = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "vi_pos", "ir_pos", "neg")
_SCENES_A_SHARD = 64


class StreamSizes(BaseModel):
    """How much is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_groups: int = 7_000_000
    batch_size: int = 4
    crop_px: int = 224
    # Batches of a round; the first ones, which open shards, are not counted.
    num_batches: int = 40
    num_first: int = 8
    rounds: int = 5


SMOKE = StreamSizes(
    num_groups=20_000, batch_size=2, crop_px=32, num_batches=6, num_first=2, rounds=1
)


def stream_lines(
    version: DatasetVersion, root: Folder, settings: Settings, work: Path, *, smoke: bool
) -> Iterator[Line]:
    """Measure the stream over a version; from S3 too where `settings` keep their datasets there."""
    sizes = SMOKE if smoke else StreamSizes()
    yield from _start(sizes, work / "many-groups")
    yield _threads(version, root, sizes)
    if settings.datasets.startswith("s3://"):
        yield _from_s3(version, root, settings, sizes)


def _start(sizes: StreamSizes, folder: Path) -> list[Line]:
    """CPU seconds and memory of a process that opens a version of millions of groups, its imports apart."""
    root = LocalFolder(folder)
    name = made_up_version(root, sizes.num_groups)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, peak_mib, shards = pool.submit(start_rank, folder, name).result()
    detail = f"{sizes.num_groups} groups in {shards} shards, none of them opened"
    return [
        Line("start of a rank, CPU seconds", seconds, 5, False, detail),
        Line("start of a rank, peak MiB", peak_mib, 1024, False, detail),
    ]


def start_rank(folder: Path, name: str) -> tuple[float, float, int]:
    """Open a version as a rank does, up to where the first shard would be opened; CPU seconds."""
    begun_s = time.process_time()
    root = LocalFolder(folder)
    version = read_version(root, name)
    batches = ShardBatches(version, root, Batching(FIELDS, batch_size=4, crop_px=224, seed=1))
    seconds = time.process_time() - begun_s
    batches.close()
    return seconds, own_peak_mib(), len(version.shards)


def made_up_version(root: LocalFolder, num_groups: int) -> str:
    """Manifest and index of a version of no shards; its name."""
    config = DatasetConfig(name="many-groups")
    groups_a_shard = _SCENES_A_SHARD * (1 + len(config.shard.vi))
    num_shards = -(-num_groups // groups_a_shard)
    names = [digest_of(place) for place in range(num_shards)]
    counts = {"num_bytes": 2**28, "num_scenes": _SCENES_A_SHARD, "num_groups": groups_a_shard}
    version = DatasetVersion(
        digest="",
        config=config,
        code=config.shard.code_versions(),
        scene_index_digest="",
        shards=tuple(
            ShardInfo(name=name[:24], sha256=name, num_images=0, libraries=(), **counts)
            for name in names
        ),
        refused=(),
        quarantined=(),
        commit="",
        created="",
    )
    version = version.model_copy(update={"digest": digest_of_contents(version)})
    root.replace(manifest_of(version.name), version.model_dump_json().encode())
    num_scenes = num_shards * _SCENES_A_SHARD
    drawn = pa.array([["clean", *config.shard.vi]] * _SCENES_A_SHARD * num_shards)
    rows = pa.table(
        {
            "shard": [name[:24] for name in names for _ in range(_SCENES_A_SHARD)],
            "scene": [f"planned-train-{place:07}" for place in range(num_scenes)],
            "vi": drawn,
            "ir": drawn,
            "pictures": drawn,
            "natives": pa.array([[]] * num_scenes, pa.list_(pa.string())),
        }
    )
    pq.write_table(rows, root.path / index_of(version.name), compression="zstd")
    return version.name


def _threads(version: DatasetVersion, root: Folder, sizes: StreamSizes) -> Line:
    """Samples a second by threads, the rounds in turn."""
    rates: dict[int, list[float]] = {count: [] for count in _THREADS}
    for _ in range(sizes.rounds):
        for count in _THREADS:
            rates[count].append(_samples_per_s(version, root, sizes, count))
    best = {count: max(each) for count, each in rates.items()}
    detail = ", ".join(f"{best[count]:.1f} with {count}" for count in _THREADS)
    return Line("samples a second, 2 threads / 1", best[2] / best[1], 1.5, True, detail)


def _from_s3(version: DatasetVersion, root: Folder, settings: Settings, sizes: StreamSizes) -> Line:
    """Samples a second from S3, nothing cached, over those from this disk, in pairs."""
    remote = open_folder(f"{settings.datasets}/bench", settings)
    for shard in version.shards:
        for suffix in ("tar", "parquet", "json"):
            name = f"shards/{shard.name}.{suffix}"
            if remote.size_of(name) is None:
                remote.replace(name, root.read(name))
    for name in (index_of(version.name), manifest_of(version.name)):
        remote.replace(name, root.read(name))
    ratios = []
    for _ in range(sizes.rounds):
        for cached in (settings.work / "cache" / "files").glob("*.tar"):
            cached.unlink()
        ours = _samples_per_s(version, remote, sizes, 1)
        ratios.append(ours / _samples_per_s(version, root, sizes, 1))
    detail = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs"
    return Line("samples a second, S3 / disk", statistics.median(ratios), 0.9, True, detail)


def _samples_per_s(
    version: DatasetVersion, root: Folder, sizes: StreamSizes, threads: int
) -> float:
    """Samples a second of the stream after its first batches."""
    batching = Batching(FIELDS, sizes.batch_size, sizes.crop_px, seed=0)
    batches = ShardBatches(version, root, batching)
    with closing(batches):
        begun_s = 0.0
        for done, _ in enumerate(
            prefetch(batches.batch, range(sizes.num_batches), threads=threads)
        ):
            if done + 1 == sizes.num_first:
                begun_s = time.perf_counter()
        seconds = time.perf_counter() - begun_s
    return (sizes.num_batches - sizes.num_first) * sizes.batch_size / seconds
