"""Published layouts, with real pictures where ../shared/data has them, under their published names."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.sources.layouts import Layout, find_pairs
from pipelines.sources.pairing import Found
from pipelines.sources.scan import ScanRules, scan
from pipelines.sources.scenes import Scene, load_native, load_pair
from pipelines.sources.source_paths import RemotePath
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
    assert scan(tmp_path, dataset="tno").scenes[0].id == "tno-train-scene-01"
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


def found(
    names: list[str], layout: Layout | None = None, read: Callable[[str], bytes] = bytes.fromhex
) -> Found:
    """What a listing alone tells; nothing is read but lists."""
    root = RemotePath.of("s3://b/set", names)
    return find_pairs(root, layout or Layout(), read=read, peek=lambda path: 3)


def told(names: list[str], layout: Layout | None = None) -> list[str]:
    """Data set, split and stem of each pair."""
    return sorted(
        ":".join(filter(None, (pair.dataset, pair.split, pair.stem)))
        for pair in found(names, layout)[0]
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vi/1.png", "visible/1.png", "ir/1.png"], "has vi/ and visible/"),
        (["VI_enhanced/1.png", "VI/1.png", "IR/1.png"], "vi_enhanced/ but not its partner"),
        (["VI_enhanced/1.png", "IR_enhanced/1.png", "VI/1_Rain.png"], "partner folder ir/"),
        (["vi/1.png"], "has pictures in vi/ but none in a partner folder"),
        (["pictures/1.png"], "holds no pairs: neither"),
    ],
)
def test_folders_that_fit_no_layout(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Splits, whatever stands round them.
        (["train/Visible/images/1.jpg", "train/thermal/images/1.jpg"], ["train:1"]),
        (["Training/rgb/1.jpg", "Training/tir/1.png"], ["train:1"]),
        (["images_rgb_train/data/1.jpg", "images_thermal_train/data/1.jpg"], ["train:1"]),
        (["val/valimg/1.jpg", "val/valimgr/1.jpg"], ["val:1"]),
        (["A-main/A-main/vi/1.png", "A-main/A-main/ir/1.png"], ["train:1"]),
        (["A/A/test/vi/1.png", "A/A/test/ir/1.png"], ["test:1"]),
        (["vi//1.png", "ir//1.png"], ["train:1"]),
        # Neither splits nor data sets.
        (["train/vi/s1/1.png", "train/ir/s1/1.png", "train/vi/s2/1.png", "train/ir/s2/1.png"],
         ["train:s1-1", "train:s2-1"]),
        (["Day/Visible/Train/1.tif", "Day/FIR/Train/1.tif", "Night/Visible/NewTest/1.tif",
          "Night/FIR/NewTest/1.tif"], ["test:Night-1", "train:Day-1"]),
        (["set00/V000/visible/I0.jpg", "set00/V000/lwir/I0.jpg", "set01/V000/visible/I0.jpg",
          "set01/V000/lwir/I0.jpg"], ["train:set00-V000-I0", "train:set01-V000-I0"]),
        (["car/visible/v0001.jpg", "car/infrared/i0001.jpg"], ["train:0001"]),
        (["car/visible/0001v.jpg", "car/infrared/0001i.jpg"], ["train:0001"]),
        (["8/vi/1.png", "8/ir/1.png", "16/vi/1.png", "16/ir/1.png"], ["train:16-1", "train:8-1"]),
        (["\u591c/vi/1.png", "\u591c/ir/1.png", "\u5929/vi/1.png", "\u5929/ir/1.png"],
         ["train:\u591c-1", "train:\u5929-1"]),
        (["RGBImages/1.png", "Thermal-Images/1.png"], ["train:1"]),
        (["vivid/vi/1.png", "vivid/ir/1.png", "rgbt/vi/1.png", "rgbt/ir/1.png"],
         ["rgbt:train:1", "vivid:train:1"]),
        # Files tell the camera.
        (["JPEGImages/F_1_RGB.jpg", "JPEGImages/F_1_PreviewData.jpeg"], ["train:F_1"]),
        (["a_rgb.png", "a_t.png"], ["train:a"]),
        (["ir_1.png", "vis_1.png", "ir_2.png", "vis_2.png"], ["train:1", "train:2"]),
        # Names that are the same to a person.
        (["vi/peopleshadow.jpg", "ir/peopleShadow.jpg"], ["train:peopleshadow"]),
        (["vi/caf\u00e9.png", "ir/cafe\u0301.png"], ["train:caf\u00e9"]),
        # Junk.
        (["visible/.DS_Store", "visible/train/1.jpg", "infrared/train/1.jpg", "__MACOSX/vi/._1.png",
          "visible/.ipynb_checkpoints/1.jpg", "infrared/@eaDir/1.jpg", "Thumbs.db"], ["train:1"]),
        # Data sets beside each other, with and without splits.
        (["M3FD_Fusion/Ir/1.png", "M3FD_Fusion/Vis/1.png", "M3FD_Detection/Ir/1.png",
          "M3FD_Detection/Vis/1.png"], ["m3fd_detection:train:1", "m3fd_fusion:train:1"]),
        (["x/MSRS/MSRS-main/val/vi/1.png", "x/MSRS/MSRS-main/val/ir/1.png", "x/own/vi/1.png",
          "x/own/ir/1.png"], ["msrs:val:1", "own:train:1"]),
        (["nir/train/vi/1.png", "nir/train/ir/1.png", "x/val/vi/1.png", "x/val/ir/1.png"],
         ["nir:train:1", "x:val:1"]),
        (["train/RGB/1.jpg", "train/thermal_8_bit/1.jpeg", "train/thermal_16_bit/1.tiff"], ["train:1"]),
    ],
)  # fmt: skip
def test_which_folder_is_which(names: list[str], expected: list[str]) -> None:
    assert told(names) == expected


def test_patterns_and_tables_tell_what_names_do_not() -> None:
    names = [
        "cam0/train/a.png",
        "cam0/val/b.png",
        "cam1/train/a_t.png",
        "cam1/val/b_t.png",
        "x.gif",
    ]
    layout = Layout(vi="cam0/**/*.png", ir="cam1/**/*_t.png")
    assert told(names, layout) == ["train:train-a", "val:val-b"]
    assert [item.path for item in found(names, layout)[1]] == ["s3://b/set"]
    with pytest.raises(ValueError, match=r"--ir cam2/\*: matches no picture"):
        found(names, Layout(vi="cam0/**/*", ir="cam2/*"))
    table = "vi,ir,split\ncam0/val/b.png,cam1/val/b_t.png,test\ncam0/val/c.png,cam1/val/b_t.png,\n"
    pairs, refused = found(names, Layout(pairs=(table, "t.csv")))
    assert [(pair.split, pair.stem) for pair in pairs] == [("test", "cam0-val-b")]
    assert refused[0].path == "t.csv: cam0/val/c.png"
    with pytest.raises(ValueError, match=r"t\.csv: a table of pairs has the columns vi and ir"):
        found(names, Layout(pairs=("a,b\n", "t.csv")))


def test_a_table_names_single_cameras_and_what_is_degraded() -> None:
    names = ["lol/lq/a.png", "lol/gt/a.png", "cam1/b.png"]
    table = (
        "vi,ir,split,vi_low_light\nlol/gt/a.png,,val,lol/lq/a.png\n,cam1/b.png,,\n,,,lol/lq/a.png\n"
    )
    pairs, refused = found(names, Layout(pairs=(table, "t.csv")))
    assert [(pair.split, pair.stem, [*pair.cameras]) for pair in pairs] == [
        ("val", "lol-gt-a", ["vi"]),
        ("train", "cam1-b", ["ir"]),
    ]
    assert [(member, path.name) for member, path in pairs[0].natives] == [("vi_low_light", "a.png")]
    assert refused[0].path == "t.csv: line 4"
    with pytest.raises(ValueError, match=r"no degradation 'fog' for modality 'vi'; known: .*haze"):
        found(names, Layout(pairs=("vi,ir,vi_fog\n", "t.csv")))
    with pytest.raises(ValueError, match=r"t\.csv: column 'note'; a table of pairs has"):
        found(names, Layout(pairs=("vi,ir,note\n", "t.csv")))


def test_lists_of_splits() -> None:
    names = [f"{camera}/{stem}.png" for camera in ("vi", "ir") for stem in "abc"]
    lists = {"s3://b/set/meta/train.txt": b"a.png\n", "s3://b/set/meta/val.txt": b"B\n"}
    listed = [*names, "meta/train.txt", "meta/val.txt"]
    pairs, refused = found(listed, read=lists.__getitem__)
    assert [(pair.split, pair.stem) for pair in pairs] == [
        ("train", "a"),
        ("val", "b"),
        ("train", "c"),
    ]
    assert "all but 1 pairs" in refused[0].reason
    given = Layout(split_lists={"test": "c\nvi/a.png\n"})
    assert told(names, given) == ["test:a", "test:c"]
    assert [(item.path, item.pairs) for item in found(names, given)[1]] == [
        ("s3://b/set/vi/b.png", 0)
    ]
    with pytest.raises(ValueError, match="--split-list: a is in two lists"):
        found(names, Layout(split_lists={"test": "a", "val": "a"}))


def test_everything_that_is_left_out_is_counted_and_named() -> None:
    names = [
        "vi/1.png",
        "ir/1.png",
        "vi/2.gif",
        "ir/2.avif",
        "vi/3.png",
        "vi/notes.txt",
        "label/1.png",
    ]
    pairs, refused = found([*names, "label/2.png", "other/visible/9.png"])
    assert len(pairs) == 1
    told_of = {item.path.removeprefix("s3://b/set/"): (item.pairs, item.reason) for item in refused}
    assert told_of["vi/2.gif"][0] + told_of["ir/2.avif"][0] == 1
    assert told_of["vi/3.png"] == (1, "has no IR picture of the same name")
    assert told_of["vi/notes.txt"][0] == 0
    assert told_of["label"] == (0, "2 pictures that belong to no pair, left out")
    assert told_of["other/visible/9.png"][0] == 1


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
    result = scan(tmp_path, dataset="all", rules=ScanRules(layout=Layout(split="test")))
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


def test_folders_beside_data_sets_with_splits_are_data_sets(tmp_path: Path) -> None:
    pairs(tmp_path / "ours", "1")
    pairs(tmp_path / "theirs", "1")
    alone = scan(tmp_path, dataset="set").scenes
    assert alone.ids() == ["set-train-ours-1", "set-train-theirs-1"]
    pairs(tmp_path / "msrs" / "val", "1")
    assert scan(tmp_path).scenes.counts() == {
        "msrs": {"val": 1},
        "ours": {"train": 1},
        "theirs": {"train": 1},
    }


def test_what_is_wrong_in_one_of_several_data_sets_is_named(tmp_path: Path) -> None:
    several(tmp_path)
    (tmp_path / "MSRS" / "val" / "ir" / "1.png").unlink()
    [refused] = scan(tmp_path).refused
    assert refused.path.endswith("MSRS/val/vi/1.png")
    assert "has no IR picture" in refused.reason


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("msrs/val", "MSRS and .*msrs: two data sets of one name"),
        ("val", "val/vi/9.png: in no data set's folder, beside data sets that have one"),
    ],
)
def test_data_sets_that_cannot_be_told_apart(extra: str, message: str, tmp_path: Path) -> None:
    several(tmp_path)
    pairs(tmp_path / extra, "9")
    with pytest.raises(ValueError, match=message):
        scan(tmp_path)


@pytest.mark.slow
@needs_data
def test_all_the_real_sets_at_once() -> None:
    result = scan(IVIF)
    assert not result.refused
    counts = result.scenes.counts()
    assert counts["roadscene"] == {"test": 50, "train": 87, "val": 20}
    assert counts["degraded_real"] == {"train": 18, "val": 7}
    listed = listed_by_split()
    assert {name: counts[name] for name in listed} == listed
