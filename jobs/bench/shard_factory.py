"""What the shard factory adds to the work itself, against baselines that are written down here.

Every figure is a ratio of two measurements of one run, so that another machine gives the same.
Where one core is meant, CPU seconds are counted and not the clock: neighbours do not change them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from infra.settings import Settings
from jobs.bench.lines import Line, report_lines
from jobs.bench.streaming import FIELDS, stream_lines
from jobs.config import find_recipe
from jobs.console import CONSOLE, section
from jobs.generate.run import generate
from jobs.recipes import DATASETS
from jobs.scan.run import index_path
from pipelines.batches.decoding import to_floats
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.datasets.groups import Group
from pipelines.datasets.plan import DatasetConfig, OlderShard, ShardSpec, plan_shards
from pipelines.datasets.shards.markers import SHARDS, ShardInfo, marker_of, tar_of
from pipelines.datasets.shards.reading import ShardReader, open_shard
from pipelines.datasets.shards.sample import make_sample
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.sources.index import write_index
from pipelines.sources.pictures import encode_png
from pipelines.sources.scan import ScanResult, scan
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.folders import Folder, LocalFolder
from pipelines.synthetic.pairs import write_scenes
from pipelines.training.process_memory import own_peak_mib

_NUM_PROCESSES = 2


class ShardSizes(BaseModel):
    """How much is measured; sides in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = 480
    width: int = 640
    num_scenes: int = 48
    scenes_per_shard: int = 8
    rounds: int = 3
    batch_size: int = 4
    num_batches: int = 12
    crop_px: int = 224
    # The cost of a scene does not depend on how many there are; small ones show that sooner.
    growth: tuple[int, ...] = (20, 80, 320)
    growth_height: int = 120
    growth_width: int = 160
    # Scenes of the plans whose driver is weighed, in 1,500 shards and in 10,500; None leaves it out.
    num_planned: int | None = 65_000


SMOKE = ShardSizes(
    height=48, width=64, num_scenes=8, scenes_per_shard=4, rounds=1, batch_size=2, num_batches=2,
    crop_px=32, growth=(4, 8), growth_height=32, growth_width=48, num_planned=None,
)  # fmt: skip


def bench_data(settings: Settings, *, smoke: bool = False) -> list[Line]:
    """Measure every line, print them, and write `<work>/bench/data.json`."""
    from infra.cluster.connect import connected

    sizes = SMOKE if smoke else ShardSizes()
    # As on a worker: idle OpenMP threads spin, and their CPU seconds would be counted.
    torch.set_num_threads(1)
    work = settings.work / "bench" / ("smoke" if smoke else "data")
    asked = settings
    settings = settings.model_copy(update={"work": work, "datasets_uri": None})
    section("Render scenes (once)")
    scenes = rendered_scenes(work / "sources", "bench", sizes.num_scenes, sizes.height, sizes.width)
    many = rendered_scenes(
        work / "many", "many", max(sizes.growth), sizes.growth_height, sizes.growth_width
    )
    config = find_recipe(DATASETS, "small").model_copy(
        update={"scenes_per_shard": sizes.scenes_per_shard}
    )
    section("Measure")

    def measured() -> Iterator[Line]:
        run = f"{time.time_ns():x}"
        with connected(settings):
            specs = plan_shards(config, scenes)
            yield _generation(specs, work / "runs" / run, sizes.rounds)
            again, version = _second_run(config, scenes, settings, run)
            yield again
        root = LocalFolder(Path(settings.datasets))
        yield _bytes_per_group(version, root)
        yield _batches(version, root, work / "png", sizes)
        nine = config.model_copy(update={"shard": find_recipe(DATASETS, "paper").shard})
        [spec, *_] = plan_shards(nine, scenes)
        yield _one_kernel_changed(spec, work / "copied" / run, sizes.rounds)
        yield from stream_lines(version, root, asked, work, smoke=smoke)
        yield _growth(config, many, work / "growth" / run, sizes)
        if sizes.num_planned:
            yield _driver_memory(sizes.num_planned, work / "planned")

    out = work.parent / ("data-smoke.json" if smoke else "data.json")
    return report_lines(measured(), sizes, out)


def rendered_scenes(folder: Path, name: str, count: int, height: int, width: int) -> list[Scene]:
    """Scenes of a set called `name`, rendered into `folder` unless they exist."""
    if len(list(folder.glob("train/ir/*.png"))) != count:
        write_scenes(folder, split_counts={"train": count}, seed=0, height=height, width=width)
    return list(scan(folder, dataset=name).scenes.of_split("train"))


def _generation(specs: Sequence[ShardSpec], folder: Path, rounds: int) -> Line:
    """Our tasks against the same kernels and encoders in a bare loop on as many processes.

    The cluster and the pool are both running and warm; the better of several rounds, taken in turn.
    """
    from infra.cluster.tasks import map_tasks

    ours: list[float] = []
    bare: list[float] = []
    scenes = [(scene, spec) for spec in specs for scene in spec.scenes]
    halves = [scenes[start::_NUM_PROCESSES] for start in range(_NUM_PROCESSES)]
    with ProcessPoolExecutor(_NUM_PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(bare_loop, [half[:1] for half in halves]))
        list(map_tasks(write_shard, specs[:_NUM_PROCESSES], LocalFolder(folder / "warm")))
        for index in range(rounds):
            target = folder / str(index)
            ours.append(_clock(partial(_generate_shards, specs, target)))
            bare.append(_clock(lambda: list(pool.map(bare_loop, halves))))
    return Line(
        "generation, of a bare loop's speed", min(bare) / min(ours), 0.85, True,
        f"{len(scenes)} scenes in {min(ours):.2f} s, bare loop {min(bare):.2f} s",
    )  # fmt: skip


def _generate_shards(specs: Sequence[ShardSpec], folder: Path) -> None:
    from infra.cluster.tasks import map_tasks

    for _ in map_tasks(write_shard, specs, LocalFolder(folder)):
        pass


def bare_loop(scenes: Sequence[tuple[Scene, ShardSpec]]) -> int:
    """Baseline: read, degrade and encode, and throw the bytes away."""
    return sum(len(make_sample(scene, spec)[0]) for scene, spec in scenes)


def _second_run(
    config: DatasetConfig, scenes: Sequence[Scene], settings: Settings, run: str
) -> tuple[Line, DatasetVersion]:
    """The whole command twice, over one index, in a cluster that is up."""
    name = f"bench-{run}"
    write_index(ScanResult(scenes=SceneTable.of(scenes), refused=()), index_path(settings, name))
    # A seed of its own: the first run finds no shard of an earlier bench.
    shard = config.shard.model_copy(update={"seed": int(run, 16) % 2**31})
    config = config.model_copy(update={"name": name, "shard": shard})
    versions = []
    with CONSOLE.capture():
        times = [
            _clock(lambda: versions.append(generate(config, settings, scenes=name)))
            for _ in range(2)
        ]
    assert versions[0] == versions[1]
    detail = f"{times[0]:.2f} s, then {times[1] * 1000:.0f} ms"
    return Line(
        "unchanged second run, times faster", times[0] / times[1], 50, True, detail
    ), versions[0]


def _bytes_per_group(version: DatasetVersion, root: Folder) -> Line:
    """Against every group as a sample of its own, with its 16 pictures as PNG."""
    sizes: dict[tuple[str, str], int] = {}
    apart = 0
    for reader, scene, group in _groups(version, root):
        for of, member in pictures_of(scene, group):
            if (of, member) not in sizes:
                sizes[of, member] = len(encode_png(reader.image(of, member)))
            apart += sizes[of, member]
    ratio = version.num_bytes / apart
    detail = f"{version.num_bytes / version.num_groups / 2**10:.0f} KiB a group, "
    detail += f"{apart / version.num_groups / 2**10:.0f} KiB apart"
    return Line("bytes a group, of 16 apart", ratio, 0.25, False, detail)


def pictures_of(scene: str, group: Group) -> list[tuple[str, str]]:
    """The 16 pictures of a group (K = 3, M = 7): 2 inputs, 2 references, 6 positives, 6 negatives."""
    vi, ir = f"vi_{group.vi}", f"ir_{group.ir}"
    return [
        *((scene, member) for member in (vi, ir, "vi_gt", "ir_gt")),
        *((other, vi) for other in group.vi_positives),
        *((other, ir) for other in group.ir_positives),
        *((scene, member) for member in group.negatives),
    ]


class PngGroups:
    """Baseline: a data set as research code has it, 16 PNG files a group, opened whole and cropped."""

    def __init__(self, groups: Sequence[Sequence[Path]], *, crop_px: int, seed: int) -> None:
        self._groups, self._crop_px = groups, crop_px
        self._rng = np.random.default_rng(seed)

    def __getitem__(self, index: int) -> list[Tensor]:
        """Read all files of a group, cut one window, turn them into tensors."""
        images = [_read_png(path) for path in self._groups[index]]
        height, width = images[0].shape[:2]
        top = int(self._rng.integers(max(height - self._crop_px, 0) + 1))
        left = int(self._rng.integers(max(width - self._crop_px, 0) + 1))
        return [self._tensor(image, top, left) for image in images]

    def _tensor(self, image: np.ndarray, top: int, left: int) -> Tensor:
        cut = image[top : top + self._crop_px, left : left + self._crop_px]
        chw = torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))
        # Infrared becomes three channels, so that both cameras stack.
        return (chw.float() / 255).expand(3, -1, -1)  # 3 H W


def _read_png(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image[..., None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _batches(version: DatasetVersion, root: Folder, folder: Path, sizes: ShardSizes) -> Line:
    """Batches a CPU second, ours and the baseline's, over the same number of samples."""
    ours = ShardBatches(version, root, Batching(FIELDS, sizes.batch_size, sizes.crop_px, seed=0))
    groups = []
    wanted = sizes.batch_size * sizes.num_batches
    for reader, scene, group in islice(_groups(version, root), wanted):
        paths = []
        for of, member in pictures_of(scene, group):
            path = folder / version.digest[:12] / of / f"{member}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(reader.image(of, member)))
            paths.append(path)
        groups.append(paths)
    plain = PngGroups(groups, crop_px=sizes.crop_px, seed=0)

    def read_plain() -> None:
        for step in range(sizes.num_batches):
            places = range(step * sizes.batch_size, (step + 1) * sizes.batch_size)
            rows = [plain[place % len(groups)] for place in places]
            assert all(torch.stack(column).ndim == 4 for column in zip(*rows, strict=True))

    def read_ours() -> None:
        for step in range(sizes.num_batches):
            to_floats(ours.batch(step))

    read_ours()
    read_plain()
    ours_s = min(_cpu(read_ours) for _ in range(sizes.rounds))
    plain_s = min(_cpu(read_plain) for _ in range(sizes.rounds))
    ours.close()
    detail = (
        f"{sizes.num_batches / ours_s:.2f} a CPU second, baseline {sizes.num_batches / plain_s:.2f}"
    )
    return Line("batches a core, times 16 PNGs", plain_s / ours_s, 5, True, detail)


def _growth(
    config: DatasetConfig, scenes: Sequence[Scene], folder: Path, sizes: ShardSizes
) -> Line:
    """CPU seconds a scene from plan to manifest in one process; the largest over the smallest.

    The better of several rounds: a neighbour on the cores slows one of them for a while.
    """
    make_sample(scenes[0], plan_shards(config, scenes[: sizes.growth[0]])[0])
    best = {count: math.inf for count in sizes.growth}
    for index in range(sizes.rounds):
        for count in sizes.growth:
            root = LocalFolder(folder / f"{index}-{count}")
            spent_s = _cpu(partial(_publish, config, scenes[:count], root))
            best[count] = min(best[count], spent_s / count)
    shown = ", ".join(f"{spent_s * 1000:.1f} ms at {count}" for count, spent_s in best.items())
    spread = max(best.values()) / min(best.values())
    return Line("cost a scene, largest over smallest", spread, 1.15, False, shown)


def _one_kernel_changed(spec: ShardSpec, folder: Path, rounds: int) -> Line:
    """CPU seconds of a shard that is made, over one of which all but one kernel's pictures are copied.

    For each kernel in turn; the bytes are compared, too. One kernel alone may be most of the work.
    """
    root = LocalFolder(folder / "whole")
    whole_s = min(_cpu(partial(_write_again, spec, root)) for _ in range(rounds))
    info = write_shard(spec, root).info
    address = spec.config.member_addresses(spec.config.code_versions())
    ratios = {}
    for member in spec.config.code_versions().kernels:
        older = OlderShard(
            name=f"{info.name}-older", sha256=info.sha256, libraries=info.libraries,
            members=tuple(address.keys() - {member}),
        )  # fmt: skip
        target = LocalFolder(folder / member)
        (target.path / SHARDS).mkdir(parents=True)
        (target.path / tar_of(older.name)).hardlink_to(root.path / tar_of(info.name))
        changed = spec.model_copy(update={"older": older})
        spent_s = min(_cpu(partial(_write_again, changed, target)) for _ in range(rounds))
        assert write_shard(changed, target).info == info
        ratios[member] = whole_s / spent_s
    ordered = sorted(ratios, key=ratios.__getitem__)
    shown = ", ".join(f"{member} {ratios[member]:.1f}" for member in ordered)
    return Line(
        "one kernel of nine changed, times cheaper", median(ratios.values()), 4, True, shown
    )


def _write_again(spec: ShardSpec, root: LocalFolder) -> None:
    for name in (marker_of(spec.name), tar_of(spec.name)):
        (root.path / name).unlink(missing_ok=True)
    write_shard(spec, root)


def _driver_memory(num_scenes: int, work: Path) -> Line:
    """Peak memory of a driver over the same scenes in few large shards and in many small ones."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        (few, small), (many, large) = (
            pool.submit(drive, num_scenes, scenes_per_shard, work).result()
            for scenes_per_shard in (64, 7)
        )
    detail = f"{small:.0f} MiB at {few} shards, {large:.0f} MiB at {many}"
    return Line("driver's peak memory, many shards over few", large / small, 1.1, False, detail)


def drive(num_scenes: int, scenes_per_shard: int, work: Path) -> tuple[int, float]:
    """Plan, hand out as Ray tasks and publish, as `jobs.generate` does; shards and peak MiB.

    The tasks make no shard, only its marker: the driver sees nothing else of a real one.
    """
    from infra.cluster.connect import connected
    from infra.cluster.tasks import map_tasks

    config = DatasetConfig(name="planned", scenes_per_shard=scenes_per_shard)
    plan = plan_shards(config, SceneTable.of(map(made_up_scene, range(num_scenes))))
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(work=work, tracking_uri="", artifact_root=None, ray_address=None)
    with connected(settings):
        infos = list(map_tasks(describe_shard, plan))
    assert len({info.name for info in infos}) == len(plan)
    return len(plan), own_peak_mib()


def describe_shard(spec: ShardSpec) -> ShardInfo:
    """The marker that `write_shard` would write, without the shard."""
    counts = {
        "num_bytes": 2**20,
        "num_scenes": len(spec.scenes),
        "num_groups": 0,
        "num_images": 0,
        "libraries": (),
    }
    digest = hashlib.sha256(spec.name.encode()).hexdigest()
    return ShardInfo(name=spec.name, sha256=digest, **counts)


def made_up_scene(index: int) -> Scene:
    """A scene of no files."""
    digest = hashlib.sha256(str(index).encode()).hexdigest()
    return Scene(
        id=f"planned-train-{index:06}",
        dataset="planned",
        split="train",
        vi_uri=f"/data/planned/train/vi/{index:06}.png",
        ir_uri=f"/data/planned/train/ir/{index:06}.png",
        width=640,
        height=480,
        vi_sha256=digest,
        ir_sha256=digest,
    )


def _publish(config: DatasetConfig, scenes: Sequence[Scene], root: Folder) -> None:
    shards = [write_shard(spec, root).info for spec in plan_shards(config, scenes)]
    publish_version(root, config, scenes, shards, Made("bench", ""))


def _groups(version: DatasetVersion, root: Folder) -> Iterator[tuple[ShardReader, str, Group]]:
    for shard in version.shards:
        with closing(open_shard(root, shard)) as reader:
            for scene, meta in reader.metas.items():
                for group in meta.groups:
                    yield reader, scene, group


def _clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _cpu(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started
