"""list, diff, retire and gc, against a real MLflow; and what happens when two work at once."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.registry import tracking
from infra.settings import Settings
from jobs.config import override, shrink_training
from jobs.generate import run as generating
from jobs.generate.quarantine import Quarantine
from jobs.generate.run import generate
from jobs.generate.upkeep import collect_garbage, compare, retire, show_versions, verify
from jobs.recipes import TRAINING
from jobs.scan.run import scan_folder
from jobs.train import run as training
from jobs.train.inputs import find_sources
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.shards.writing import BadSourcesError
from pipelines.datasets.versions import DatasetVersion, find_version, manifest_of, retire_version
from pipelines.sources.pairing import Refused
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version
from tests.settings import embedded_settings, tracked_settings

Published = tuple[DatasetVersion, LocalFolder]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with an MLflow of this file's own, which takes seconds to create."""
    settings = tracked_settings(tmp_path_factory.mktemp("tracked"))
    tracking.connect(settings)
    return settings


@pytest.fixture
def settings(version_root: Published, tmp_path: Path) -> Settings:
    _, root = version_root
    settings = embedded_settings(tmp_path / "work")
    return settings.model_copy(update={"datasets_uri": str(root.path)})


@pytest.fixture
def client(tracked: Settings) -> Any:
    """MLflow's client; the runs of a test are deleted after it."""
    client = tracking.connect(tracked)
    yield client
    for run in client.search_runs([tracking.experiment_id(client)]):
        client.delete_run(run.info.run_id)


def run_on(client: Any, version: DatasetVersion) -> str:
    tags = {"dataset_version": version.name}
    return str(tracking.open_run(client, name="t", config={}, tags=tags).info.run_id)


def age(root: LocalFolder) -> None:
    """Let everything below a root be two days old."""
    for path in root.path.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime - 172_800, status.st_mtime - 172_800))


@pytest.mark.slow
def test_a_version_in_use_is_not_retired(
    settings: Settings, tracked: Settings, client: Any, version_root: Published, capsys: Capture
) -> None:
    settings = settings.model_copy(update={"tracking_uri": tracked.tracking_uri})
    version, root = version_root
    run_id = run_on(client, version)
    with pytest.raises(ValueError, match=rf"is needed by run {run_id} \(running\)"):
        retire(version.name, settings)
    tracking.fail_run(client, run_id, KeyboardInterrupt())
    with pytest.raises(ValueError, match=rf"run {run_id} \(killed\); delete these first"):
        retire(version.name, settings)
    tracking.finish_run(client, run_id)
    client.create_registered_model("m")
    client.create_model_version("m", str(root.path), tags={"dataset_version": version.name})
    with pytest.raises(ValueError, match=r"is needed by models:/m/1"):
        retire(version.name, settings)
    capsys.readouterr()
    show_versions(settings)
    shown = capsys.readouterr().out
    assert version.name in shown
    assert f"used by run {run_id} (finished), models:/m/1" in shown
    client.delete_registered_model("m")
    assert find_version(root, version.name) == version
    retire(version.name, settings)
    with pytest.raises(ValueError, match="no dataset version"):
        find_version(root, version.config.name)
    age(root)
    collect_garbage(settings, delete=True, min_age_h=24)
    assert list(root.entries("shards/")) == []


def test_diff_prints_what_changed(
    settings: Settings, version_root: Published, config: DatasetConfig, scenes: list[Scene],
    capsys: Capture,
) -> None:  # fmt: skip
    version, root = version_root
    other = make_version(root, config, scenes[:12])
    compare(version.name, other.name, settings)
    assert "count scenes" in capsys.readouterr().out
    compare(version.name, version.name, settings)
    assert "none" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_and_a_retirement_at_once(
    settings: Settings,
    tracked: Settings,
    client: Any,
    version_root: Published,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run opens after retiring asked: the training finds the version gone, and reads no shard."""
    settings = settings.model_copy(update={"tracking_uri": tracked.tracking_uri})
    version, root = version_root
    recipe = shrink_training(TRAINING["dspfusion_stage1_small"]())
    recipe = override(recipe, [f"dataset={version.name}"])
    open_run = training.open_training_run

    def retire_first(*arguments: Any) -> str:
        retire_version(root, version.name, lambda: [])
        return open_run(*arguments)

    monkeypatch.setattr(training, "open_training_run", retire_first)
    with pytest.raises(ValueError, match="no dataset version"):
        training.train(recipe, settings, name="t")
    [run] = client.search_runs([tracking.experiment_id(client)])
    assert run.info.status == "FAILED"


def test_a_run_that_opens_while_a_version_is_retired_keeps_it(version_root: Published) -> None:
    version, root = version_root
    answers = iter([[], ["run 1"]])
    with pytest.raises(ValueError, match="needed by run 1"):
        retire_version(root, version.name, lambda: next(answers))
    assert find_version(root, version.name) == version


def test_a_version_that_is_being_retired_is_refused(
    version_root: Published, config: DatasetConfig, scenes: list[Scene]
) -> None:
    version, root = version_root
    with pytest.raises(KeyboardInterrupt):
        retire_version(root, version.name, _Interrupted())
    # It was put back.
    assert find_version(root, version.name) == version
    root.replace(f"versions/{version.name}.retiring", b"")
    for name in (version.name, version.config.name):
        with pytest.raises(ValueError, match="is being retired"):
            find_version(root, name)
    with pytest.raises(ValueError, match=r"is being retired; .*\.retiring if it was interrupted"):
        make_version(root, config, scenes)
    root.replace(f"versions/{version.name}.index", b"what belongs to it")
    retire_version(root, version.name, lambda: [])
    assert list(root.entries("versions/")) == []


class _Interrupted:
    """Asked for the second time, it is interrupted."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self) -> list[str]:
        self._calls += 1
        if self._calls == 2:
            raise KeyboardInterrupt
        return []


@pytest.fixture
def unpublished(
    settings: Settings, version_root: Published, scene_folder: Path
) -> tuple[DatasetConfig, LocalFolder]:
    """All shards of a recipe are there, two days old, and no version refers to them."""
    version, root = version_root
    scan_folder(scene_folder, settings, name="rendered")
    (root.path / manifest_of(version.name)).unlink()
    (root.path / "versions" / f"{version.config.name}.newest").unlink()
    age(root)
    return version.config, root


def test_gc_cannot_cross_a_generation_that_reuses_old_shards(
    settings: Settings,
    unpublished: tuple[DatasetConfig, LocalFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    config, root = unpublished
    publish = generating.publish_version

    def collect_first(*arguments: Any, **options: Any) -> DatasetVersion:
        collect_garbage(settings, delete=True, min_age_h=0)
        return publish(*arguments, **options)

    monkeypatch.setattr(generating, "publish_version", collect_first)
    version = generate(config, settings, scenes="rendered")
    assert "shards are needed by the generation of" in capsys.readouterr().out
    verify(version.name, settings)
    assert list(root.entries("underway/")) == []


def test_two_generations_at_once_publish_one_version(
    settings: Settings, unpublished: tuple[DatasetConfig, LocalFolder]
) -> None:
    config, root = unpublished
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: generate(config, settings, scenes="rendered"), range(2))
    assert first == second == find_version(root, config.name)
    assert list(root.entries("underway/")) == []


def test_publishing_finds_out_that_a_shard_was_collected(
    settings: Settings,
    unpublished: tuple[DatasetConfig, LocalFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver slept for longer than its record lives, and gc took it for dead."""
    config, root = unpublished
    reuse = generating.split_reuse

    def fall_asleep(*arguments: Any) -> Any:
        found = reuse(*arguments)
        age(root)
        collect_garbage(settings, delete=True, min_age_h=24)
        return found

    monkeypatch.setattr(generating, "split_reuse", fall_asleep)
    with pytest.raises(ValueError, match="shards vanished"):
        generate(config, settings, scenes="rendered")
    assert list(root.entries("versions/")) == []


def test_the_quarantine_holds_the_recipes_share(scenes: list[Scene], capsys: Capture) -> None:
    refused = (Refused(path="/scanned.png", reason="false colour"),)
    quarantine = Quarantine(ScanResult(SceneTable.of(scenes), refused), max_share=0.15)
    first, second = (
        BadSourcesError((Refused(path=f"/{scene.id}.png", reason="cut short"),), (scene.id,))
        for scene in scenes[:2]
    )
    quarantine.add(first)
    quarantine.add(first)
    assert capsys.readouterr().out.count(f"left out: /{scenes[0].id}.png: cut short") == 2
    assert [item.path for item in quarantine.refused] == ["/scanned.png", f"/{scenes[0].id}.png"]
    assert quarantine.scene_ids == {scenes[0].id}
    with pytest.raises(ValueError, match="3 of 17 pairs refused, more than 15"):
        quarantine.add(second)


@pytest.mark.slow
@pytest.mark.ray
def test_a_rebuild_has_the_bytes_of_a_whole_build(
    ray_settings: Settings,
    scene_folder: Path,
    config: DatasetConfig,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    settings = ray_settings.model_copy(update={"work": tmp_path / "work"})
    scan_folder(scene_folder, settings, name="all")
    config = config.model_copy(update={"name": "all-small"})
    old = generate(config, settings, scenes="all")
    new = generate(config, settings, scenes="all", rebuild=["blur"])
    assert f"reuse 0 shards, build {len(new.shards)}" in capsys.readouterr().out
    assert new.config.shard.rebuilt == {"blur": 1}
    # The kernel is the same, so the bytes are; the addresses are others.
    assert {shard.sha256 for shard in new.shards} == {shard.sha256 for shard in old.shards}
    assert new.digest != old.digest
    verify(new.name, settings, remake=5)
    assert "made again  5 scenes, with" in capsys.readouterr().out
    assert generate(config, settings, scenes="all") == new


@pytest.mark.slow
@pytest.mark.ray
def test_a_picture_that_went_bad_is_left_out_by_name(
    ray_settings: Settings,
    scene_folder: Path,
    config: DatasetConfig,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(scene_folder, sources)
    settings = ray_settings.model_copy(update={"work": tmp_path / "work"})
    scan_folder(sources, settings, name="kept")
    config = config.model_copy(update={"name": "kept-small"})
    [bad, *_] = sorted(sources.glob("train/ir/*"))
    bad.write_bytes(b"no picture any more")
    with pytest.raises(ValueError, match=r"1 of 19 pairs refused, more than 1\.0%.*changed since"):
        generate(config, settings, scenes="kept")
    config = config.model_copy(update={"max_refused_share": 0.1})
    capsys.readouterr()
    version = generate(config, settings, scenes="kept")
    assert f"left out: {bad}: changed since it was scanned" in capsys.readouterr().out
    assert [item.path for item in version.refused] == [str(bad)]
    assert (version.num_scenes, len(version.quarantined)) == (15, 1)
    verify(version.name, settings)
    # Its sources are found, for validation and for `jobs.promote trace`.
    trained = find_sources(version, settings).trained
    assert trained is not None
    assert version.quarantined[0] not in trained.ids()
    # The picture is back: so is its scene.
    shutil.copy(scene_folder / bad.relative_to(sources), bad)
    assert generate(config, settings, scenes="kept").num_scenes == 16
