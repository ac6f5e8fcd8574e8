import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.checks.depth import WindowRule
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import (
    Candidate,
    Checked,
    ScanRules,
    _Memory,
    check_refused_share,
    in_threads,
    scan,
)
from pipelines.sources.scenes import Read, SceneTable, fetched_scenes, load_pair, read_file
from tests.conftest import SHARED_DATA, needs_data


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four good pairs without split folders."""
    rng = np.random.default_rng(0)
    for index in range(4):
        write(tmp_path / "vi" / f"{index}.png", rng.integers(0, 256, (20, 24, 3), np.uint8))
        write(tmp_path / "ir" / f"{index}.png", rng.integers(0, 256, (20, 24), np.uint8))
    return tmp_path


def test_finds_splits_and_reads_pictures(scene_folder: Path) -> None:
    result = scan(scene_folder, dataset="rendered")
    assert not result.refused
    assert {scene.split for scene in result.scenes} == {"train", "val"}
    scene = result.scenes.of_split("val")[0]
    vi, ir = load_pair(scene)
    assert vi.shape == (64, 80, 3)
    assert ir.shape == (64, 80, 1)
    assert vi.dtype == ir.dtype == np.uint8


def test_bad_files_are_named_with_reasons(pairs: Path) -> None:
    (pairs / "vi" / "text.png").write_text("this is not a picture")
    write(pairs / "ir" / "text.png", np.zeros((20, 24), np.uint8))
    write(pairs / "vi" / "alone.png", np.zeros((20, 24, 3), np.uint8))
    write(pairs / "vi" / "wide.png", np.zeros((20, 25, 3), np.uint8))
    write(pairs / "ir" / "wide.png", np.zeros((20, 24), np.uint8))
    write(pairs / "vi" / "deep.png", np.zeros((20, 24, 3), np.uint8))
    write(pairs / "ir" / "deep.png", np.zeros((20, 24), np.uint16))
    false_color = np.zeros((20, 24, 3), np.uint8)
    false_color[:, :, 2] = 255
    write(pairs / "vi" / "lava.png", np.zeros((20, 24, 3), np.uint8))
    write(pairs / "ir" / "lava.png", false_color)
    (pairs / "ir" / "notes.txt").write_text("not mine")
    result = scan(pairs)
    reasons = {Path(item.path).name: item.reason for item in result.refused}
    assert len(result.scenes) == 4
    assert set(reasons) == {
        "text.png",
        "alone.png",
        "wide.png",
        "deep.png",
        "lava.png",
        "notes.txt",
    }
    assert "decoded" in reasons["text.png"]
    assert "no IR picture" in reasons["alone.png"]
    assert "25x20" in reasons["wide.png"]
    assert "24x20" in reasons["wide.png"]
    assert reasons["deep.png"].startswith("uint16 picture in a folder of uint8 ones")
    assert "colour" in reasons["lava.png"]
    with pytest.raises(ValueError, match=r"5 of 9 pairs refused.*alone\.png"):
        check_refused_share(result, max_share=0.01, setting="--x")
    check_refused_share(result, max_share=0.6, setting="--x")


def test_same_id_twice_is_refused(pairs: Path) -> None:
    for name in ("a b", "a.b"):
        write(pairs / "vi" / f"{name}.png", np.zeros((20, 24, 3), np.uint8))
        write(pairs / "ir" / f"{name}.png", np.zeros((20, 24), np.uint8))
    result = scan(pairs)
    assert len(result.scenes) == 5
    assert "is taken by" in result.refused[0].reason


def test_missing_folders_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        scan(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no pairs"):
        scan(tmp_path)
    write(tmp_path / "vi" / "1.png", np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="partner"):
        scan(tmp_path)


@needs_data
def test_real_roadscene_pairs() -> None:
    result = scan(SHARED_DATA / "ivif" / "roadscene", dataset="roadscene")
    assert not result.refused
    counts = {split: len(result.scenes.of_split(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 87, "val": 20, "test": 50}
    assert any(scene.width % 2 and scene.height % 2 for scene in result.scenes)


@needs_data
def test_real_infrared_with_equal_channels() -> None:
    result = scan(
        SHARED_DATA / "ivif" / "tno" / "test",
        dataset="tno",
        rules=ScanRules(layout=Layout(split="test")),
    )
    assert len(result.scenes) == 25
    assert not result.refused
    assert load_pair(result.scenes[0])[1].shape[2] == 1


def test_unchanged_files_are_not_read_again(pairs: Path) -> None:
    first = scan(pairs)
    read: list[str] = []

    def counted(uri: str) -> bytes:
        read.append(Path(uri).name)
        return read_file(uri)

    checked: list[str] = []

    def check_all(candidates: Sequence[Candidate], read: Read) -> Iterator[Checked]:
        checked.extend(candidate.id for candidate in candidates)
        return in_threads(candidates, read)

    rules = ScanRules(known=first.scenes)
    again = scan(pairs, rules=rules, read=counted, check_all=check_all)
    assert checked == []
    assert list(again.scenes) == list(first.scenes)
    path = write(pairs / "ir" / "2.png", np.full((20, 24), 9, np.uint8))
    os.utime(path, (1, 1))
    changed = scan(pairs, rules=rules, check_all=check_all).scenes
    assert [name[-1] for name in checked] == ["2"]
    assert [a.id[-1] for a, b in zip(changed, first.scenes, strict=True) if a != b] == ["2"]


def test_large_pictures_wait_for_each_other() -> None:
    memory = _Memory(100)
    held, most = [0], [0]

    def work(num_bytes: int) -> None:
        with memory.taken(num_bytes):
            held[0] += min(num_bytes, 100)
            most[0] = max(most[0], held[0])
            held[0] -= min(num_bytes, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 30, 500, 60, 10] * 20))
    assert most[0] <= 100
    assert held == [0]


def test_a_camera_of_sixteen_bits_has_one_window_for_its_data_set(pairs: Path) -> None:
    ramp = np.linspace(0, 500, 480).reshape(20, 24)
    for index in range(4):
        write(pairs / "ir" / f"{index}.png", (28000 + 200 * index + ramp).astype(np.uint16))
    [window] = scan(pairs).scenes.windows("ir")
    assert (window.low, window.high) == (pytest.approx(28000, abs=10), pytest.approx(29100, abs=10))
    given = scan(pairs, rules=ScanRules(ir_window=WindowRule(low=28000, high=29000))).scenes
    ir = load_pair(given[3])[1]
    assert (ir.min(), ir.max()) == (round(255 * 0.6), 255)
    assert scan(pairs).scenes[0].digest != given[0].digest
    assert SceneTable.of(list(given)).digests() == [scene.digest for scene in given]


def test_pictures_of_four_channels_are_both_cameras(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    write(tmp_path / "images" / "1.png", image)
    write(tmp_path / "labels" / "1.png", image[:, :, 0])
    result = scan(tmp_path)
    [scene] = result.scenes
    with fetched_scenes([scene], read_file) as [here]:
        vi, ir = load_pair(here)
    assert np.array_equal(vi, image[:, :, 2::-1])
    assert np.array_equal(ir, image[:, :, 3:])
    assert [item.reason for item in result.refused] == [
        "1 pictures that belong to no pair, left out"
    ]


def test_radiometric_jpegs_are_told_of(pairs: Path) -> None:
    data = cv2.imencode(".jpg", np.zeros((20, 24), np.uint8))[1].tobytes()
    part = b"FLIR\0\1\0\0raw"
    (pairs / "ir" / "0.png").write_bytes(
        data[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + data[2:]
    )
    result = scan(pairs)
    assert len(result.scenes) == 4
    [told] = result.refused
    assert (Path(told.path).name, told.pairs) == ("0.png", 0)
    assert told.reason.startswith("a radiometric JPEG")


def test_restoration_sets_have_one_camera(pairs: Path) -> None:
    (pairs / "vi").rename(pairs / "gt")
    (pairs / "ir" / "3.png").unlink()
    (pairs / "ir").rename(pairs / "lq")
    with pytest.raises(ValueError, match="say which with --camera"):
        scan(pairs)
    with pytest.raises(ValueError, match="say with --lq by what"):
        scan(pairs, rules=ScanRules(layout=Layout(camera="vi")))
    layout = Layout(camera="vi", lq="low_light", hold_out=0.3)
    scenes = scan(pairs, rules=ScanRules(layout=layout)).scenes
    assert [scene.cameras for scene in scenes] == [("vi",)] * 4
    members = [[native.member for native in scene.natives] for scene in scenes]
    assert sorted(members) == [[], ["vi_low_light"], ["vi_low_light"], ["vi_low_light"]]
    assert sorted(scene.split for scene in scenes) == ["train", "train", "val", "val"]


def test_names_keep_their_letters_apart(pairs: Path) -> None:
    for name in ("\u591c\u665a", "\u767d\u5929", "caf\u00e9", "cafe"):
        write(pairs / "vi" / f"{name}.png", np.zeros((20, 24, 3), np.uint8))
        write(pairs / "ir" / f"{name}.png", np.zeros((20, 24), np.uint8))
    result = scan(pairs, dataset="d")
    assert result.refused == ()
    assert len(set(result.scenes.ids())) == 8
    assert "d-train-cafe" in result.scenes.ids()


@needs_data
@pytest.mark.parametrize("name", ["lol", "kodak24"])
def test_real_restoration_sets(name: str) -> None:
    layout = Layout(camera="vi", lq="low_light")
    result = scan(SHARED_DATA / "restoration" / name, rules=ScanRules(layout=layout))
    assert not result.refused
    assert sum(len(scene.natives) for scene in result.scenes) == (7 if name == "lol" else 0)
