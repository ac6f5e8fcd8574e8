"""Datasets on S3: the same bytes as on disk, through kills, put-off requests and a restart."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from infra.settings import Settings
from infra.storage.client import s3_client, split_uri
from jobs.config import find_recipe, override, shrink_training
from jobs.evaluate.run import evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import Asked
from jobs.generate.run import generate, named
from jobs.generate.upkeep import collect_garbage, verify
from jobs.locations import open_datasets, open_folder, source_reader
from jobs.recipes import DATASETS, TRAINING
from jobs.recipes.kinds import EvaluateRecipe
from jobs.scan.run import scan_folder
from jobs.train.local import train_local
from pipelines.datasets.versions import DatasetVersion
from pipelines.reports.dataset_gallery import write_gallery
from pipelines.training.checkpoints import read_state
from tests.faulty_proxy import FaultyProxy, proxied
from tests.s3_servers import RadosGateway, client_of, make_bucket
from tests.settings import tracked_settings

pytestmark = pytest.mark.ray

_RECIPE = named(find_recipe(DATASETS, "small"), "stored").model_copy(update={"scenes_per_shard": 6})
_numbers = itertools.count()


@pytest.fixture
def local(ray_settings: Settings, scene_folder: Path, tmp_path: Path) -> Settings:
    """A work folder with the index `stored`, its datasets on disk."""
    settings = ray_settings.model_copy(update={"work": tmp_path / "work"})
    scan_folder(scene_folder, settings, name="stored")
    return settings


@pytest.fixture(scope="module")
def expected(
    ray_settings: Settings, scene_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> DatasetVersion:
    """The dataset of `local`, made on a disk."""
    settings = ray_settings.model_copy(update={"work": tmp_path_factory.mktemp("expected")})
    scan_folder(scene_folder, settings, name="stored")
    return generate(_RECIPE, settings, scenes="stored")


def on_s3(settings: Settings, url: str, *, bucket_at: str) -> Settings:
    """The same work folder, its datasets in a bucket of their own."""
    bucket = make_bucket(bucket_at, f"generate-{next(_numbers)}")
    return settings.model_copy(update={"datasets_uri": f"{bucket}/sets", "s3_endpoint_url": url})


def check_identical(settings: Settings, expected: DatasetVersion) -> None:
    """The version is whole, holds the bytes of the one on disk, and nothing lies beside it."""
    verify(expected.name, settings)
    root = open_datasets(settings)
    assert [entry.name for entry in root.entries("shards/")] == [
        f"shards/{shard.name}.{suffix}"
        for shard in expected.shards
        for suffix in ("json", "parquet", "tar")
    ]


@pytest.mark.slow
def test_the_bytes_of_the_disk_and_everything_that_reads_them(
    local: Settings, expected: DatasetVersion, moto_url: str, tmp_path: Path
) -> None:
    settings = on_s3(local, moto_url, bucket_at=moto_url)
    version = generate(_RECIPE, settings, scenes="stored")
    assert version.shards == expected.shards
    assert version.digest == expected.digest
    check_identical(settings, expected)
    root = open_datasets(settings)
    stamps = [entry.modified_s for entry in root.entries("")]
    assert generate(_RECIPE, settings, scenes="stored") == version
    assert [entry.modified_s for entry in root.entries("")] == stamps
    elsewhere = local.model_copy(update={"s3_endpoint_url": moto_url})
    verify(f"{root.uri}/versions/{version.name}.json", elsewhere)
    write_gallery(version, root, tmp_path / "page.html")
    assert version.digest in (tmp_path / "page.html").read_text()
    recipe = override(
        shrink_training(TRAINING["dspfusion_stage1_small"]()), [f"dataset={version.name}"]
    )
    assert read_state(train_local(recipe, settings, name="t")).step == 4
    cached = settings.work / "cache" / "files"
    assert {path.stem for path in cached.glob("[!.]*.tar")} == {
        shard.sha256 for shard in version.shards
    }


def test_damage_on_the_store_is_seen_past_the_cache(
    local: Settings, moto_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = on_s3(local, moto_url, bucket_at=moto_url)
    version = generate(_RECIPE, settings, scenes="stored")
    root = open_datasets(settings)
    name = f"shards/{version.shards[0].name}.tar"
    with root.checked(name, version.shards[0].sha256):
        pass
    root.replace(name, root.read(name)[:-512])
    with pytest.raises(ValueError, match="is not whole: 1 problems"):
        verify(version.name, settings)
    assert f"{name}: damaged" in capsys.readouterr().out
    # It is not reused either: its size is not the marker's.
    generate(_RECIPE, settings, scenes="stored")
    check_identical(settings, version)


@pytest.mark.slow
def test_sources_are_read_from_s3(
    local: Settings, expected: DatasetVersion, moto_url: str, scene_folder: Path, tiny_bundle: Path
) -> None:
    settings = on_s3(local, moto_url, bucket_at=moto_url)
    sources = open_folder(f"{settings.datasets}-sources", settings)
    for path in scene_folder.rglob("*.png"):
        sources.replace(path.relative_to(scene_folder).as_posix(), path.read_bytes())
    index = scan_folder(sources.uri, settings, name="stored")
    assert index.scenes[0].vi_uri.startswith("s3://")
    assert generate(_RECIPE, settings, scenes="stored").digest == expected.digest
    recipe = EvaluateRecipe(scenarios=("clean",), num_scenes=2, num_examples=1, steps=())
    asked = Asked(str(tiny_bundle), SceneChoice("stored"))
    remote = evaluate(recipe, settings, asked)
    scan_folder(scene_folder, local, name="stored")
    assert evaluate(recipe, local, asked).run_id == remote.run_id  # the same scenes
    scan_folder(sources.uri, settings, name="stored")
    with pytest.raises(ValueError, match="nothing has this prefix"):
        scan_folder(f"{sources.uri}/absent", settings, name="x")
    [vi] = [
        entry for entry in sources.entries(index.scenes[0].vi_uri.removeprefix(f"{sources.uri}/"))
    ]
    sources.delete(vi)
    source = source_reader(settings)
    with pytest.raises(ValueError, match="no such object"):
        source(index.scenes[0].vi_uri)


@pytest.mark.s3real
def test_workers_killed_in_the_middle_of_an_upload(
    local: Settings, expected: DatasetVersion, gateway: RadosGateway
) -> None:
    """Also every third request is put off, whoever makes it."""
    killed: set[int] = set()
    lock = threading.Lock()

    def kill_two(line: str, port: int) -> None:
        if not (line.startswith("PUT") and ".tar" in line):
            return
        with lock:
            if len(killed) < 2:
                for pid in owners(port) - killed - {os.getpid()}:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    proxy = FaultyProxy(gateway.url, slow_down=1, on_request=kill_two)
    with proxied(proxy) as through:
        settings = on_s3(local, through, bucket_at=gateway.url)
        version = generate(_RECIPE, settings, scenes="stored")
        assert len(killed) == 2
        assert proxy.num_put_off > 5
        assert version.digest == expected.digest
        check_identical(settings, expected)
        collect_garbage(settings, delete=True, min_age_h=0)
        check_identical(settings, expected)


def owners(port: int) -> set[int]:
    """Processes at the client's end of a connection from `port`."""
    connections = psutil.net_connections("tcp4")
    return {c.pid for c in connections if c.pid and c.laddr and c.laddr.port == port}


@pytest.mark.s3real
def test_the_server_restarts_in_the_middle(
    local: Settings, expected: DatasetVersion, gateway: RadosGateway
) -> None:
    down = threading.Event()

    def kill_at_first_tar(line: str, _: int) -> None:
        if ".tar" in line and line.startswith("PUT") and not down.is_set():
            down.set()
            gateway.kill_gateway()

    def restart() -> None:
        assert down.wait(300)
        time.sleep(3)
        gateway.start_gateway()

    restarter = threading.Thread(target=restart)
    restarter.start()
    with proxied(FaultyProxy(gateway.url, on_request=kill_at_first_tar)) as through:
        settings = on_s3(local, through, bucket_at=gateway.url)
        version = generate(_RECIPE, settings, scenes="stored")
        restarter.join()
        assert version.digest == expected.digest
        check_identical(settings, expected)


@pytest.mark.slow
@pytest.mark.s3real
def test_the_rights_of_the_readme_are_enough(
    scene_folder: Path, gateway: RadosGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ListBucket: the store then says of an absent object that it is forbidden."""
    settings = on_s3(tracked_settings(tmp_path), gateway.url, bucket_at=gateway.url)
    scan_folder(scene_folder, settings, name="stored")
    bucket, _ = split_uri(settings.datasets)
    rights = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")
    for name, value in gateway.add_user("least", bucket, rights).items():
        monkeypatch.setenv(name, value)
    s3_client.cache_clear()
    try:
        version = generate(_RECIPE, settings, scenes="stored", local=True)
        assert generate(_RECIPE, settings, scenes="stored", local=True) == version
        recipe = override(
            shrink_training(TRAINING["dspfusion_stage1_small"]()), ["dataset=stored-smoke"]
        )
        with pytest.raises(ValueError, match=r"no dataset version .* may not list \(s3:ListBucket"):
            train_local(recipe, settings, name="t")
        recipe = override(recipe, [f"dataset={version.config.name}"])
        assert read_state(train_local(recipe, settings, name="t")).step == 4
        with pytest.raises(ValueError, match="may not list it, which takes s3:ListBucket"):
            collect_garbage(settings, delete=True, min_age_h=0)
    finally:
        s3_client.cache_clear()
    listed = client_of(gateway.url).list_objects_v2(Bucket=bucket, Prefix="sets/underway/")
    assert listed["KeyCount"] == 0
