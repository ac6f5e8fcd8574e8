"""`jobs.scan` of a root of several data sets, on disk and on S3: one index."""

import json
from pathlib import Path

import cv2
import pytest

from infra.settings import Settings
from jobs.locations import open_folder
from jobs.scan.run import load_index, read_bounds, scan_folder
from pipelines.sources.scan import ScanRules
from pipelines.synthetic.pairs import write_scenes
from tests.s3_servers import make_bucket
from tests.settings import embedded_settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two data sets with splits whose files have the same names."""
    for seed, name in enumerate(("Alpha", "beta")):
        write_scenes(
            tmp_path / "sources" / name,
            split_counts={"train": 3, "val": 1 + seed},
            seed=seed,
            height=32,
            width=48,
        )
    return tmp_path / "sources"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return embedded_settings(tmp_path / "work")


def test_one_index_tells_the_data_sets(
    root: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    scan_folder(root, settings, name="all")
    shown = capsys.readouterr().out
    assert "4 scenes: train 3, val 1" in shown
    assert "5 scenes: train 3, val 2" in shown
    scenes = load_index(settings, "all").scenes
    assert [scene.id for scene in scenes.of_split("val")] == [
        "alpha-val-0000",
        "beta-val-0000",
        "beta-val-0001",
    ]
    report = json.loads((settings.work / "scenes" / "all.report.json").read_text())
    assert report["datasets"]["beta"] == {"train": 3, "val": 2}


def test_an_unpaired_picture_is_named(root: Path, settings: Settings) -> None:
    (root / "beta" / "val" / "vi" / "0001.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 9 pairs refused.*beta/val/ir/0001\.png: has no VI"):
        scan_folder(root, settings, name="all")


def test_nothing_is_found(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty" / "tno" / "train").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"empty: holds no pairs: neither .* nor data sets that do"
    ):
        scan_folder(tmp_path / "empty", settings, name="all")


def test_the_same_from_s3(root: Path, settings: Settings, moto_url: str) -> None:
    remote = settings.model_copy(update={"s3_endpoint_url": moto_url})
    sources = open_folder(f"{make_bucket(moto_url, 'several-sets')}/pairs", remote)
    for path in root.rglob("*.png"):
        sources.replace(path.relative_to(root).as_posix(), path.read_bytes())
    there = scan_folder(sources.uri, remote, name="there").scenes
    here = scan_folder(root, settings, name="here").scenes
    assert there.ids() == here.ids()
    assert there.digests() == here.digests()
    assert there[0].vi_uri == f"{sources.uri}/Alpha/train/vi/0000.png"
    # A changed object has another ETag; the others are not read again.
    gone = "Alpha/train/vi/0000.png"
    sources.replace(gone, (root / "Alpha" / "train" / "vi" / "0001.png").read_bytes())
    again = scan_folder(sources.uri, remote, name="there").scenes
    assert [a.id for a, b in zip(again, there, strict=True) if a != b] == [there[0].id]


@pytest.mark.ray
def test_tasks_of_a_cluster_find_the_same(
    root: Path, settings: Settings, ray_settings: Settings, tmp_path: Path
) -> None:
    (root / "beta" / "val" / "ir" / "0000.png").write_bytes(b"no picture")
    on_ray = ray_settings.model_copy(update={"work": tmp_path / "ray", "in_ray_job": True})
    there = scan_folder(root, on_ray, name="all", max_refused_share=0.5)
    here = scan_folder(root, settings, name="all", max_refused_share=0.5)
    assert list(there.scenes) == list(here.scenes)
    assert there.refused == here.refused


def test_an_index_of_another_version_is_no_obstacle(
    root: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    first = scan_folder(root, settings, name="all").scenes
    path = settings.work / "scenes" / "all.parquet"
    path.write_bytes(b"of another time")
    assert list(scan_folder(root, settings, name="all").scenes) == list(first)
    assert "no index of this version" in capsys.readouterr().out


def test_poor_targets_are_reported_and_left_out_on_request(
    root: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "Alpha" / "train" / "vi" / "0001.png"
    assert cv2.imwrite(str(path), cv2.imread(str(path)) // 30)
    whole = scan_folder(root / "Alpha", settings, name="alpha").scenes
    report = json.loads((settings.work / "scenes" / "alpha.report.json").read_text())
    assert "dark" in report["poor_targets"]["alpha-train-0001"]
    assert "poor targets" in capsys.readouterr().out
    bounds, refuse = read_bounds(["dark=0.95"])
    rules = ScanRules(bounds=bounds, refuse=refuse)
    good = scan_folder(root / "Alpha", settings, name="alpha", rules=rules).scenes
    assert set(whole.ids()) - set(good.ids()) == {"alpha-train-0001"}
    assert "by --refuse: dark 0.9" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--refuse darc=1: no such measure, did you mean 'dark'"):
        read_bounds(["darc=1"])
