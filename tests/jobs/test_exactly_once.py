"""Datasets survive real kills: of a Ray worker, and of the driver, both in the middle of a write."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra.cluster.tasks import map_tasks
from infra.settings import Settings
from jobs.config import find_recipe
from jobs.generate.run import generate, named
from jobs.recipes import DATASETS
from jobs.scan.run import load_index, scan_folder
from pipelines.datasets.garbage import find_garbage
from pipelines.datasets.plan import DatasetConfig, plan_shards
from pipelines.datasets.shards.markers import find_shard
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.verify import verify_version
from pipelines.datasets.versions import DatasetVersion, find_version
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import LocalFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
_RECIPE = named(find_recipe(DATASETS, "small"), "kill").model_copy(update={"scenes_per_shard": 6})


@pytest.fixture(scope="module")
def settings(ray_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A work folder with the index `kill`: 24 pairs large enough that a shard takes a while."""
    folder = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)
    for index in range(24):
        for camera, shape in (("vi", (256, 320, 3)), ("ir", (256, 320))):
            path = folder / "sources" / "train" / camera / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, shape, np.uint8))
    settings = ray_settings.model_copy(update={"work": folder / "work"})
    scan_folder(folder / "sources", settings, name="kill")
    return settings


@pytest.fixture(scope="module")
def expected(settings: Settings) -> DatasetVersion:
    """The dataset that nobody disturbed, by two workers."""
    return generate(_RECIPE, settings, scenes="kill")


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """The same index in a work folder without shards."""
    (tmp_path / "scenes").symlink_to(settings.work / "scenes")
    return settings.model_copy(update={"work": tmp_path})


def root_of(settings: Settings) -> LocalFolder:
    return LocalFolder(Path(settings.datasets))


def shards_in(settings: Settings) -> Path:
    return root_of(settings).path / "shards"


def digests(settings: Settings) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in shards_in(settings).glob("*")}


def check_identical(settings: Settings, undisturbed: Settings, version: DatasetVersion) -> None:
    assert verify_version(version, root_of(settings)) == []
    assert [path.name for path in (root_of(settings).path / "versions").glob("*.json")] == [
        f"{version.name}.json"
    ]
    whole = digests(undisturbed)
    assert {name: digest for name, digest in digests(settings).items() if name in whole} == whole
    left = digests(settings).keys() - whole.keys()
    assert all(name.startswith(".tmp-") for name in left)


def writers(folder: Path) -> Iterator[int]:
    """Processes in the middle of a shard: a temporary file is named after its writer."""
    for path in folder.glob(".tmp-*.tar-*"):
        yield int(path.name.split("-")[-2])


def check_nothing_half(root: LocalFolder, config: DatasetConfig, scenes: SceneTable) -> int:
    """Every shard that is visible is whole; how many there are."""
    found = [find_shard(root, spec.name) for spec in plan_shards(config, scenes)]
    for info in filter(None, found):
        open_shard(root, info).close()
    return sum(info is not None for info in found)


def chosen(settings: Settings) -> SceneTable:
    return load_index(settings, "kill").scenes.of_split("train")


@pytest.mark.parametrize("order", [1, -1])
def test_one_worker_in_any_order_makes_the_bytes_of_two(
    settings: Settings, expected: DatasetVersion, tmp_path: Path, order: int
) -> None:
    specs = plan_shards(_RECIPE, chosen(settings))[::order]
    assert len(specs) >= 3
    written = list(map_tasks(write_shard, specs, LocalFolder(tmp_path), max_in_flight=1))
    infos = [shard.info for shard in written]
    assert sorted(infos, key=lambda info: info.name) == list(expected.shards)
    assert {path.name: sha256_of_file(path) for path in (tmp_path / "shards").iterdir()} == digests(
        settings
    )


def test_a_worker_killed_in_the_middle(
    settings: Settings, expected: DatasetVersion, elsewhere: Settings
) -> None:
    folder = shards_in(elsewhere)
    killed: set[int] = set()
    over = threading.Event()

    def kill_two() -> None:
        while len(killed) < 2 and not over.wait(0.001):
            for pid in set(writers(folder)) - killed - {os.getpid()}:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                break

    killer = threading.Thread(target=kill_two)
    killer.start()
    try:
        version = generate(_RECIPE, elsewhere, scenes="kill")
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    assert version.digest == expected.digest
    check_identical(elsewhere, settings, version)
    # What the dead left is garbage by name, and nothing else is.
    later_s = time.time() + 60
    garbage = find_garbage(root_of(elsewhere), now_s=later_s, min_age_s=30)
    assert garbage.shards == ()
    assert {int(entry.name.split("-")[-2]) for entry in garbage.unfinished} <= killed


def test_a_full_disk(
    settings: Settings,
    expected: DatasetVersion,
    elsewhere: Settings,
    small_disk: Callable[[int], Path],
) -> None:
    # It holds one shard and a bit.
    disk = small_disk(15)
    full = elsewhere.model_copy(update={"datasets_uri": str(disk)})
    with pytest.raises(OSError, match=r"disk is full.*\.tar"):
        generate(_RECIPE, full, scenes="kill")
    check_nothing_half(root_of(full), _RECIPE, chosen(full))
    assert not (disk / "versions").exists()
    small_disk(256)
    version = generate(_RECIPE, full, scenes="kill")
    assert version.digest == expected.digest
    check_identical(full, settings, version)


def test_the_driver_killed_in_the_middle(
    settings: Settings, expected: DatasetVersion, elsewhere: Settings
) -> None:
    folder = shards_in(elsewhere)
    command = [sys.executable, "-m", "jobs.generate", "small", "--scenes", "kill"]
    command += ["--set", "scenes_per_shard=6", "--work", str(elsewhere.work)]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    patience_s = time.monotonic() + 300
    while not (list(folder.glob("*.json")) and list(writers(folder))):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < patience_s
        time.sleep(0.001)
    driver.kill()
    driver.wait()
    assert not (root_of(elsewhere).path / "versions").exists()
    # Its workers die with it; until then they finish whole shards or leave temporary files.
    scenes = chosen(elsewhere)
    whole = check_nothing_half(root_of(elsewhere), _RECIPE, scenes)
    assert whole >= 1
    version = generate(_RECIPE, elsewhere, scenes="kill")
    assert version.digest == expected.digest
    check_identical(elsewhere, settings, version)


def test_two_drivers_at_once_make_one_version(
    settings: Settings, expected: DatasetVersion, elsewhere: Settings
) -> None:
    command = [sys.executable, "-m", "jobs.generate", "small", "--scenes", "kill"]
    # Without Ray, whose start would keep them apart.
    command += ["--local", "--set", "scenes_per_shard=6", "--work", str(elsewhere.work)]
    drivers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [driver.communicate()[0].decode() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert all(expected.name in text for text in said)
    version = find_version(root_of(elsewhere), expected.name)
    assert version.digest == expected.digest
    check_identical(elsewhere, settings, version)
    assert not [name for name in digests(elsewhere) if name.startswith(".tmp-")]
