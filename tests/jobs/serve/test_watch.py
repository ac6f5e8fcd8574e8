"""Drift: when it is told, and which pairs are kept to train on."""

from pathlib import Path

import pytest

from jobs.serve.messages import Answer, Request
from jobs.serve.model import ServedModel
from jobs.serve.watch import Watch, keep_pair
from models.system import FuseOptions
from pipelines.bundles.degradation_types import Sight
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, scan
from pipelines.store.folders import LocalFolder
from tests.jobs.serve.pictures import noise, pair
from tests.settings import embedded_settings


def request(seed: int, suffix: str = ".png") -> Request:
    """A pair of its own size, so of its own bytes."""
    return Request(vi=noise((32, 32 + seed, 3)), ir=noise((32, 32 + seed), suffix=suffix))


def seen(vi: float, ir: float = 0.5) -> Sight:
    return Sight({"vi": {"haze": 1.0}, "ir": {"clean": 1.0}}, {"vi": vi, "ir": ir})


def kept(folder: Path) -> dict[str, list[int]]:
    """Distances, in thousandths, by camera."""
    return {
        camera: sorted(int(path.name[:6]) for path in (folder / camera).iterdir())
        for camera in ("vi", "ir")
    }


def test_an_alarm_is_told_once_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()

    def told(distances: list[float]) -> str:
        for distance in distances:
            watch.see(request(0), seen(distance))
        return capsys.readouterr().err

    # Two in five: some of a single degradation may be so far.
    assert told([0.5] * 120 + [2.0] * 80) == ""
    # Of the last 200 now 81 are far.
    [line] = told([2.0]).splitlines()
    assert line.startswith("drift: 40% of the last 200 pictures of vi are farther")
    assert told([2.0] * 100) == ""
    [line] = told([0.5] * 200).splitlines()
    assert line == "drift: over, 20% of the last 200 pictures of vi"


def test_few_pictures_are_no_drift(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    for _ in range(49):
        watch.see(request(0), seen(9.0))
    assert capsys.readouterr().err == ""
    watch.see(request(0), seen(9.0))
    assert "drift: 100% of the last 50 pictures of vi" in capsys.readouterr().err


def test_the_farthest_pairs_are_kept_and_scan_reads_them(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.replace("vi/mine.txt", b"of somebody else")
    for place, distance in enumerate([1.5, 3.0, 1.2, 2.0, 1.1, 2.5]):
        keep_pair(folder, request(place, (".png", ".tif")[place % 2]), distance, most_pairs=3)
    keep_pair(folder, request(1, ".tif"), 4.0, most_pairs=3)
    (tmp_path / "vi" / "mine.txt").unlink()
    assert kept(tmp_path) == {"vi": [2000, 2500, 3000], "ir": [2000, 2500, 3000]}
    found = scan(tmp_path, dataset="far", rules=ScanRules(layout=Layout()))
    assert (len(found.scenes), found.refused) == (3, ())


def test_the_bytes_of_what_is_kept_are_bounded(tmp_path: Path) -> None:
    folder, items = LocalFolder(tmp_path), [request(place) for place in range(4)]
    most_bytes = sum(len(item.vi) + len(item.ir) for item in items[2:])
    for item, distance in zip(items, [1.1, 1.4, 1.3, 1.2], strict=True):
        keep_pair(folder, item, distance, most_bytes=most_bytes)
        lying = sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
        assert 0 < lying <= most_bytes
    assert kept(tmp_path)["vi"] == [1300, 1400]


def test_a_served_pair_that_is_far_is_kept(tmp_path: Path) -> None:
    settings = embedded_settings(tmp_path / "work")
    model = ServedModel("small", FuseOptions(), settings, keep_far=str(tmp_path / "far"))
    item = Request(**pair(64, 64))
    [answer] = model.answer([item])
    assert isinstance(answer, Answer)
    [vi], [ir] = ([*(tmp_path / "far" / camera).iterdir()] for camera in ("vi", "ir"))
    assert (vi.read_bytes(), ir.read_bytes()) == (item.vi, item.ir)
    assert vi.name == ir.name


def test_a_pair_that_cannot_be_kept_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vi").write_text("in the way")
    Watch(LocalFolder(tmp_path)).see(request(0), seen(2.0))
    assert f"{tmp_path}: a pair to train on is not kept" in capsys.readouterr().err
