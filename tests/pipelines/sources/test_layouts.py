"""Published layouts, with real pictures where ../shared/data has them, under their published names."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.sources.layouts import find_pairs
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene, load_native, load_pair
from tests.conftest import SHARED_DATA, needs_data

IVIF = SHARED_DATA / "ivif"


def place(sources: Path, vi_to: Path, ir_to: Path, *, count: int = 3) -> None:
    """Copy real pairs of a set into folders of other names."""
    for vi in sorted((sources / "vi").iterdir())[:count]:
        ir = next((sources / "ir").glob(f"{vi.stem}.*"))
        for path, folder in ((vi, vi_to), (ir, ir_to)):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.name)


def by_split(root: Path) -> dict[str, int]:
    result = scan(root, dataset="set")
    assert not result.refused
    for scene in result.scenes[:2]:
        vi, ir = load_pair(scene)
        assert vi.shape == (scene.height, scene.width, 3)
        assert ir.shape == (scene.height, scene.width, 1)
    splits = [scene.split for scene in result.scenes]
    return {split: splits.count(split) for split in splits}


def listed_by_split() -> dict[str, dict[str, int]]:
    """Pairs of each data set and split, as the manifest beside the pictures lists them."""
    counts: dict[str, dict[str, int]] = {}
    with (IVIF.parent / "manifest.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            of_set = counts.setdefault(row["dataset"], {})
            of_set[row["split"]] = of_set.get(row["split"], 0) + 1
    return counts


@needs_data
@pytest.mark.parametrize("name", ["msrs", "tno", "llvip", "kaist"])
def test_plain_sets(name: str) -> None:
    assert by_split(IVIF / name) == listed_by_split()[name]


@needs_data
@pytest.mark.parametrize(
    ("source", "vi", "ir"),
    [
        ("roadscene/val", "crop_HR_visible", "cropinfrared"),
        ("m3svd/val", "Vis", "Ir"),
        ("msrs/val", "VI", "IR"),
        ("msrs/val", "visible", "infrared"),
        ("tno/val", "VIS", "inf"),
    ],
)
def test_folder_names(source: str, vi: str, ir: str, tmp_path: Path) -> None:
    place(IVIF / source, tmp_path / vi, tmp_path / ir, count=2)
    assert by_split(tmp_path) == {"train": 2}


@needs_data
def test_llvip_keeps_its_splits_below_the_cameras(tmp_path: Path) -> None:
    for split, source in (("train", "train"), ("test", "val")):
        place(IVIF / "llvip" / source, tmp_path / "visible" / split, tmp_path / "infrared" / split)
    assert by_split(tmp_path) == {"train": 3, "test": 3}


@needs_data
def test_tno_as_first_published(tmp_path: Path) -> None:
    for name in ("01", "02"):
        folder = tmp_path / "Athena_images" / f"scene {name}"
        folder.mkdir(parents=True)
        shutil.copy(IVIF / "tno" / "test" / "vi" / f"{name}.png", folder / f"VIS_{name}_r.png")
        shutil.copy(IVIF / "tno" / "test" / "ir" / f"{name}.png", folder / f"IR_{name}_g.png")
    assert by_split(tmp_path) == {"train": 2}
    assert scan(tmp_path, dataset="tno").scenes[0].id == "tno-train-athena_images-scene-01"
    shutil.copy(folder / "IR_02_g.png", folder / "IR_03_g.png")
    [refused] = scan(tmp_path, dataset="tno").refused
    assert "1 VIS and 2 IR" in refused.reason


@needs_data
def test_the_authors_hybrid_set() -> None:
    result = scan(IVIF / "degraded_real", dataset="hybrid")
    assert not result.refused
    assert len(result.scenes) == 25
    assert sum(len(scene.natives) for scene in result.scenes) == 225
    [scene] = [scene for scene in result.scenes if scene.id == "hybrid-val-06307"]
    assert [native.member for native in scene.natives] == [
        "ir_clean", "ir_low_contrast", "ir_random_noise", "ir_stripe_noise",
        "vi_blur", "vi_clean", "vi_haze", "vi_over_exposure", "vi_rain", "vi_random_noise",
    ]  # fmt: skip
    # The pair is the target, and these two are PNG inside .jpg (data/README.md).
    assert scene.vi_uri.endswith("VI_enhanced/06307.jpg")
    assert np.array_equal(load_native(scene, "vi_clean"), load_pair(scene)[0])
    assert not np.array_equal(load_native(scene, "vi_blur"), load_pair(scene)[0])


@needs_data
def test_palette_pictures_are_colours_and_not_indices() -> None:
    scenes = {
        scene.id: scene for scene in scan(IVIF / "degraded_real" / "train", dataset="h").scenes
    }
    scene = scenes["h-train-00002d"]
    data = Path(next(n.uri for n in scene.natives if n.member == "vi_clean")).read_bytes()
    assert data[25] == 3, "PNG colour type 3 is a palette"
    # The palette costs a little (39.9 dB to the captured picture), no more.
    captured = cv2.imread(str(IVIF / "msrs" / "train" / "vi" / "00002D.png"))[:, :, ::-1]
    error = load_native(scene, "vi_clean").astype(float) - captured
    assert 10 * np.log10(255**2 / (error**2).mean()) > 38


def picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def hybrid(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        picture(root / "VI_enhanced" / f"{name}.png", rng.integers(0, 256, (16, 20, 3), np.uint8))
        picture(root / "IR_enhanced" / f"{name}.png", rng.integers(0, 256, (16, 20), np.uint8))
    picture(root / "VI" / "a_Rain.png", np.zeros((16, 20, 3), np.uint8))
    picture(root / "IR" / "a_SN.png", np.zeros((16, 20), np.uint8))


def test_bad_natives_are_refused_by_name_and_the_scene_stays(tmp_path: Path) -> None:
    hybrid(tmp_path)
    picture(tmp_path / "VI" / "a_Fog.png", np.zeros((16, 20, 3), np.uint8))
    picture(tmp_path / "VI" / "c_Rain.png", np.zeros((16, 20, 3), np.uint8))
    picture(tmp_path / "VI" / "b_Rain.png", np.zeros((8, 20, 3), np.uint8))
    (tmp_path / "IR" / "b_SN.png").write_bytes((tmp_path / "IR" / "a_SN.png").read_bytes()[:50])
    result = scan(tmp_path, dataset="h")
    reasons = {Path(item.path).name: item.reason for item in result.refused}
    assert {name: len(scene) for name, scene in natives(result.scenes).items()} == {"a": 2, "b": 0}
    assert set(reasons) == {"a_Fog.png", "c_Rain.png", "b_Rain.png", "b_SN.png"}
    assert "suffixes blur, norm, rain" in reasons["a_Fog.png"]
    assert "no pair of targets named 'c'" in reasons["c_Rain.png"]
    assert "20x8, unlike its target" in reasons["b_Rain.png"]
    assert "cut short" in reasons["b_SN.png"]


def natives(scenes: tuple[Scene, ...]) -> dict[str, list[str]]:
    return {scene.id[-1]: [native.member for native in scene.natives] for scene in scenes}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["vi", "visible", "ir"], "has vi/ and visible/"),
        (["VI_enhanced", "VI", "IR"], "VI_enhanced|partner"),
        (["vi"], "partner"),
        (["visible/train", "infrared/train", "visible/val"], "the other camera has no such folder"),
        (["pictures"], "holds neither"),
    ],
)
def test_folders_that_fit_no_layout(folders: list[str], message: str, tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        find_pairs(tmp_path, split="train")


def pairs(folder: Path, *stems: str, vi: str = "vi", ir: str = "ir") -> None:
    """Small pairs, no two alike."""
    rng = np.random.default_rng([len(str(folder)), *str(folder).encode()])
    for stem in stems:
        picture(folder / vi / f"{stem}.png", rng.integers(0, 256, (16, 20, 3), np.uint8))
        picture(folder / ir / f"{stem}.png", rng.integers(0, 256, (16, 20), np.uint8))


def several(root: Path) -> None:
    """Four data sets, each in a layout of its own, and a folder without pictures."""
    pairs(root / "MSRS" / "train", "1", "2")
    pairs(root / "MSRS" / "val", "1")
    hybrid(root / "hybrid" / "val")
    pairs(root / "LLVIP", "a", vi="visible/train", ir="infrared/train")
    pairs(root / "M3FD", "x", vi="Vis", ir="Ir")
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("ours")


def test_a_root_of_several_data_sets(tmp_path: Path) -> None:
    several(tmp_path)
    result = scan(tmp_path, dataset="all", split="test")
    assert not result.refused
    assert result.scenes.counts() == {
        "hybrid": {"val": 2},
        "llvip": {"train": 1},
        "m3fd": {"test": 1},
        "msrs": {"train": 2, "val": 1},
    }
    # The names that each would have alone: a merged index says of a scene what its own says.
    alone = scan(tmp_path / "MSRS", dataset="msrs").scenes
    assert set(alone) <= set(result.scenes)
    assert [scene.id for scene in result.scenes.of_split("val", dataset="msrs")] == ["msrs-val-1"]
    with pytest.raises(
        ValueError, match=r"'train' .* 'mrss', did you mean 'msrs'\?; it has: llvip"
    ):
        result.scenes.of_split("train", dataset="mrss")


def test_folders_with_pairs_and_no_splits_are_splits_unless_one_of_them_has_splits(
    tmp_path: Path,
) -> None:
    pairs(tmp_path / "day", "1")
    pairs(tmp_path / "night", "1")
    assert scan(tmp_path, dataset="set").scenes.counts() == {"set": {"day": 1, "night": 1}}
    pairs(tmp_path / "msrs" / "val", "1")
    assert scan(tmp_path).scenes.counts() == {
        "day": {"train": 1},
        "msrs": {"val": 1},
        "night": {"train": 1},
    }


def test_what_is_wrong_in_one_of_several_data_sets_is_named(tmp_path: Path) -> None:
    several(tmp_path)
    (tmp_path / "MSRS" / "val" / "ir" / "1.png").unlink()
    [refused] = scan(tmp_path).refused
    assert refused.path.endswith("MSRS/val/vi/1.png")
    assert "has no IR picture" in refused.reason
    # Two data sets whose names and splits run into one.
    pairs(tmp_path / "msrs-train" / "1", "x")
    pairs(tmp_path / "MSRS" / "train-1", "x")
    clash = scan(tmp_path).refused[-1]
    assert clash.path.endswith("msrs-train/1/vi/x.png")
    assert "'msrs-train-1-x' is taken by" in clash.reason
    assert "MSRS/train-1/vi/x.png" in clash.reason


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("msrs/val", "MSRS and .*msrs: two data sets of one name"),
        ("val", "val: a split beside data sets that have splits"),
    ],
)
def test_data_sets_that_cannot_be_told_apart(extra: str, message: str, tmp_path: Path) -> None:
    several(tmp_path)
    pairs(tmp_path / extra, "9")
    with pytest.raises(ValueError, match=message):
        scan(tmp_path)


def test_pictures_in_no_layout_beside_data_sets(tmp_path: Path) -> None:
    several(tmp_path)
    picture(tmp_path / "TNO" / "fused" / "1.png", np.zeros((16, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="TNO: holds pictures in none of the layouts"):
        scan(tmp_path)


@needs_data
def test_all_the_real_sets_at_once() -> None:
    result = scan(IVIF)
    assert not result.refused
    counts = result.scenes.counts()
    assert counts["roadscene"] == {"test": 50, "train": 87, "val": 20}
    assert counts["degraded_real"] == {"train": 18, "val": 7}
    listed = listed_by_split()
    assert {name: counts[name] for name in listed} == listed
