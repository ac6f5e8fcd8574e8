from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, check_refused_share, scan
from pipelines.sources.scenes import load_pair
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
