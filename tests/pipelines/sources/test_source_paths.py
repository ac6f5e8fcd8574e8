from pathlib import Path

from pipelines.sources.layouts import Layout, find_pairs
from pipelines.sources.pairing import Found
from pipelines.sources.source_paths import RemotePath, SourcePath


def pairs_of(root: SourcePath, layout: Layout | None = None) -> Found:
    """Of paths alone: nothing is read."""
    return find_pairs(root, layout or Layout(), read=lambda uri: b"", peek=lambda path: 3)


def test_a_listing_has_the_layout_that_the_folder_has(tmp_path: Path) -> None:
    names = [
        "train/VI/a.png",
        "train/ir/a.PNG",
        "train/ir/b.c.png",
        "val/vi/.hidden",
        "val/ir/x.txt",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    here = pairs_of(tmp_path)
    there = pairs_of(RemotePath.of("s3://bucket/set/", [*names, "train/"]))
    assert [(pair.split, pair.stem) for pair in there[0]] == [("train", "a")]
    assert str(there[0][0].vi) == "s3://bucket/set/train/VI/a.png"

    def shown(found: object) -> str:
        return str(found).replace(str(tmp_path), "s3://bucket/set").replace("PosixPath", "")

    assert [shown(item.path) for item in here[1]] == [item.path for item in there[1]]
    assert [item.reason for item in here[1]] == [item.reason for item in there[1]]


def test_scene_folders_in_a_listing() -> None:
    root = RemotePath.of(
        "s3://b", ["day/one/VIS.png", "day/one/IR.png", "two/VIS.png", "two/ir.bmp"]
    )
    pairs, refused = pairs_of(root, Layout(split="test"))
    assert [pair.stem for pair in pairs] == ["day-one", "two"]
    assert refused == []


def test_several_data_sets_in_a_listing() -> None:
    names = [
        f"{place}/{camera}/1.png"
        for place in ("MSRS/train", "MSRS/val", "tno/val")
        for camera in ("vi", "ir")
    ]
    pairs, refused = pairs_of(RemotePath.of("s3://b/all", names))
    assert [(pair.dataset, pair.split) for pair in pairs] == [
        ("msrs", "train"),
        ("msrs", "val"),
        ("tno", "val"),
    ]
    assert refused == []


def test_names() -> None:
    [path] = RemotePath.of("s3://b/p", [".a.b.png"]).iterdir()
    assert (path.name, path.stem, path.suffix) == (".a.b.png", ".a.b", ".png")
    [path] = RemotePath.of("s3://b/p", [".hidden"]).iterdir()
    assert (path.stem, path.suffix) == (".hidden", "")
    assert path.is_file()
    assert not path.is_dir()
