"""Fixtures: a small set of rendered scenes, its shards, and one Ray cluster for the session."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from infra.settings import Settings
from models import find_system, system_of
from pipelines.bundles.export import contract_of, write_bundle
from pipelines.bundles.pretrained import pretrained_folders
from pipelines.datasets.plan import DatasetConfig, ShardConfig, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene
from pipelines.store.folders import Folder, LocalFolder
from pipelines.synthetic.pairs import write_scenes
from tests.s3_servers import KEYS, RadosGateway, moto_server, rados_gateway
from tests.settings import tracked_settings

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="real pairs absent: ../shared/data is not on this machine"
)
# Where their system was deleted, they are gone.
needs_small = pytest.mark.skipif(
    "small" not in pretrained_folders(), reason="the weights small are not in this tree"
)

_LONG_S = 1200.0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What shares a server or a module's fixtures runs in one process of `pytest --numprocesses`."""
    from tests.groups import FileScheduling

    # The order of the folders: the last ones are many and short, so that both processes end together.
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start nodes, servers and whole trainings count as hung after 20 minutes, not after 5.

    The longest files come first.
    """
    from tests.groups import FIRST

    place = {file: number for number, file in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(FIRST)))
    for item in items:
        if any(item.get_closest_marker(name) for name in ("slow", "s3real", "hosts")):
            item.add_marker(pytest.mark.timeout(_LONG_S))


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rendered pairs for training and three for validation, 80x64 px."""
    folder = tmp_path_factory.mktemp("sources")
    write_scenes(folder, split_counts={"train": 16, "val": 3}, seed=3, height=64, width=80)
    return folder


@pytest.fixture(scope="session")
def scenes(scene_folder: Path) -> list[Scene]:
    """The training scenes of `scene_folder`."""
    return [
        scene for scene in scan(scene_folder, dataset="rendered").scenes if scene.split == "train"
    ]


@pytest.fixture(scope="session")
def config() -> DatasetConfig:
    """The recipe `small` with small shards."""
    return DatasetConfig(
        name="rendered",
        scenes_per_shard=6,
        shard=ShardConfig(
            vi=("blur", "random_noise", "low_light"),
            ir=("low_contrast", "random_noise", "stripe_noise"),
        ),
    )


def make_version(root: Folder, config: DatasetConfig, scenes: list[Scene]) -> DatasetVersion:
    """Plan, write and publish, in this process."""
    shards = [write_shard(spec, root).info for spec in plan_shards(config, scenes)]
    return publish_version(root, config, scenes, shards, Made("0" * 40, "2026-01-01"))


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, config: DatasetConfig, scenes: list[Scene]
) -> tuple[DatasetVersion, Path]:
    """A dataset version to copy: making one takes a second."""
    folder = tmp_path_factory.mktemp("published")
    return make_version(LocalFolder(folder), config, scenes), folder


@pytest.fixture
def version_root(
    published: tuple[DatasetVersion, Path], tmp_path: Path
) -> tuple[DatasetVersion, LocalFolder]:
    """A published dataset version and its root, which is the test's own."""
    version, folder = published
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy)
    return version, LocalFolder(tmp_path)


@pytest.fixture(autouse=True)
def no_run() -> None:
    """What MLflow's `set_tracking_uri` and our `open_run` leave in the environment for the processes of
    this run, the next test's would find."""
    for name in ("MLFLOW_TRACKING_URI", "FUSION_RUN"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def s3_keys() -> None:
    """The keys of the test servers, before any Ray worker inherits the environment."""
    os.environ.update(KEYS)


@pytest.fixture(scope="session", autouse=True)
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the Ray clusters that tests start find in the environment."""
    # In a file of this process: two clusters that start at once on a machine without a token would
    # each write one to the home folder, and lose the first.
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text(secrets.token_hex(32))
    # Ray lets everything else on the machine go before its workers; tests wait for them.
    os.environ.update({"RAY_AUTH_TOKEN_PATH": str(token), "RAY_worker_niceness": "0"})


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """An imitation of S3 for the session."""
    with moto_server() as url:
        yield url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make a file system of its own of so many MiB; called again it gets another size."""
    folder = tmp_path / "disk"

    def make(size_mib: int) -> Path:
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        size = f"remount,size={size_mib}m" if again else f"size={size_mib}m"
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small disk needs root")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGateway]:
    """A real S3 server for the session; skips where it is not installed."""
    with rados_gateway(tmp_path_factory.mktemp("rgw")) as started:
        yield started


@pytest.fixture(scope="session")
def ray_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One embedded Ray cluster of 2 CPUs for the session, and settings in a folder of its own."""
    from infra.cluster.connect import connected

    settings = tracked_settings(tmp_path_factory.mktemp("work"))
    with connected(settings):
        yield settings


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a system's `untrained` fuser. Exporting one takes a quarter of a minute, so all
    tests, and the processes of xdist, share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(name: str) -> Path:
        folder = shared / f"bundle-{name}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "config.json").exists():  # which is written last
                fuser = untrained(name)
                write_bundle(folder, find_system(name).tiny(), fuser, origin={"run_id": "r"})
        return folder

    return made


def untrained(name: str) -> Any:
    """A system's tiny fuser, the same each time."""
    system = find_system(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return system.build_fuser(system.tiny()).eval()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of DSPFusion without its program, which takes a quarter of a minute to export: what
    evaluates, fuses and serves here reads the weights. Tests that use it are that system's."""
    fuser, folder = tiny_fuser(), tmp_path_factory.mktemp("bundle")
    save_file(fuser.state_dict(), folder / "model.safetensors")
    described = {
        "model": fuser.config.model_dump(mode="json"),
        "contract": contract_of(system_of(fuser.config)),
        "origin": {"run_id": "r"},
    }
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def tiny_fuser() -> Any:
    """The fuser of `tiny_bundle`."""
    return untrained("dspfusion")
