import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra.settings import read_settings
from jobs.scan.run import scan_folder
from pipelines.checks.leaks import Leak, find_leaks
from pipelines.sources.pictures import decode, perceptual_hash
from pipelines.sources.scan import scan
from pipelines.sources.scenes import Scene, SceneTable
from tests.conftest import SHARED_DATA, needs_data


def scene(name: str, split: str, vi: int, ir: int) -> Scene:
    return Scene(
        id=name,
        dataset="d",
        split=split,
        vi_uri="v",
        ir_uri="i",
        width=8,
        height=8,
        vi_sha256="a",
        ir_sha256="b",
        vi_phash=f"{vi:016x}",
        ir_phash=f"{ir:016x}",
    )


def test_a_match_in_either_camera_across_splits_is_a_leak() -> None:
    far = 0xFFFF_FFFF
    scenes = [
        scene("a", "train", 0, 0),
        scene("b", "train", 0, 0),
        scene("c", "val", 0b111, far),
        scene("d", "val", far, far << 32),
        scene("e", "test", far << 16, 0b1),
    ]
    expected = [
        Leak(first="a", second="c", vi_bits=3, ir_bits=32),
        Leak(first="a", second="e", vi_bits=32, ir_bits=1),
        Leak(first="b", second="c", vi_bits=3, ir_bits=32),
        Leak(first="b", second="e", vi_bits=32, ir_bits=1),
    ]
    assert find_leaks(scenes) == expected
    assert find_leaks(scenes[::-1]) == expected
    assert find_leaks([]) == []


def many(count: int, *, splits: Sequence[str], seed: int = 0) -> SceneTable:
    """Scenes with hashes drawn at random, of the splits in turn."""
    hashes = np.random.default_rng(seed).integers(0, 2**63, count)
    alike = [
        scene(f"s{i:05}", splits[i % len(splits)], int(h), int(h)) for i, h in enumerate(hashes)
    ]
    return SceneTable.of(alike)


def test_a_near_copy_is_found_among_many() -> None:
    # More than are compared all with all.
    table = many(6000, splits=["train"])
    copies = [
        scene(f"z{bits}", "val", int(table[place].vi_phash, 16) ^ (2**bits - 1), 2**64 - 1 - place)
        for bits, place in zip(range(9), range(100, 1000, 100), strict=True)
    ]
    leaks = find_leaks([*table, *copies])
    assert [(leak.first, leak.second, leak.vi_bits) for leak in leaks] == [
        (f"s{place:05}", f"z{bits}", bits)
        for bits, place in zip(range(9), range(100, 1000, 100), strict=True)
    ]


def test_a_static_camera_has_no_more_leaks_than_scenes() -> None:
    same = [scene(f"s{i:04}", "val" if i % 5 else "train", i % 3, i % 3) for i in range(1000)]
    steps: list[tuple[int, int]] = []
    leaks = find_leaks(same, on_progress=lambda done, total: steps.append((done, total)))
    assert {name for leak in leaks for name in (leak.first, leak.second)} == {s.id for s in same}
    assert len(leaks) <= 2 * len(same)
    assert steps[-1] == (2, 2)


def bits_between(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


@needs_data
@pytest.mark.parametrize("name", ["roadscene/val/vi/FLIR_00452.jpg", "msrs/val/ir/00047N.png"])
def test_a_copy_keeps_its_hash(name: str) -> None:
    image = decode((SHARED_DATA / "ivif" / name).read_bytes(), name)
    original = perceptual_hash(image)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    compressed = cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes()
    assert bits_between(original, perceptual_hash(decode(compressed, "copy"))) <= 4
    assert bits_between(original, perceptual_hash(image[:, ::-1])) > 14


@needs_data
def test_disjoint_splits_do_not_leak_and_a_shared_camera_does() -> None:
    assert find_leaks(scan(SHARED_DATA / "ivif" / "roadscene", dataset="r").scenes) == []
    # data/README.md: val 010167 is the same fixed camera as six LLVIP scenes of train.
    leaks = find_leaks(scan(SHARED_DATA / "ivif" / "degraded_real", dataset="h").scenes)
    assert leaks
    assert {leak.second for leak in leaks} == {"h-val-010167"}


def test_scan_reports_leaks_and_refused_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split, names in (("train", "abc"), ("val", "d")):
        for name in names:
            image = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (48, 48))
            for camera in ("vi", "ir"):
                path = tmp_path / "s" / split / camera / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image if camera == "vi" else image[:, :, 0])
    leaked = tmp_path / "s" / "val" / "vi" / "copy.png"
    leaked.write_bytes((tmp_path / "s" / "train" / "vi" / "b.png").read_bytes())
    (leaked.parents[1] / "ir" / "copy.png").write_bytes(
        (tmp_path / "s" / "train" / "ir" / "b.png").read_bytes()
    )
    (tmp_path / "s" / "train" / "vi" / "alone.png").write_bytes(leaked.read_bytes())
    settings = read_settings(work=tmp_path / "work")
    with pytest.raises(ValueError, match="1 of 6 pairs refused"):
        scan_folder(tmp_path / "s", settings, name="s")
    report = json.loads((tmp_path / "work" / "scenes" / "s.report.json").read_text())
    assert report["num_scenes"] == 5
    assert [Path(item["path"]).name for item in report["refused"]] == ["alone.png"]
    assert [(leak["first"], leak["second"]) for leak in report["leaks"]] == [
        ("s-train-b", "s-val-copy")
    ]
    scan_folder(tmp_path / "s", settings, name="s", max_refused_share=0.5)
    assert "s-train-b and s-val-copy" in capsys.readouterr().out
