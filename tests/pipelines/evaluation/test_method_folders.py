from pathlib import Path

import cv2
import numpy as np
import pytest

from models.metrics import DEFAULT, measure
from pipelines.checks.depth import WindowRule
from pipelines.evaluation.method_folders import (
    check_complete,
    find_triples,
    measure_triple,
    read_picture,
    with_windows,
)
from pipelines.sources.pictures import to_tensor

SIZE = (48, 44)


def write(path: Path, seed: int, *, channels: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return image


def folders(root: Path) -> tuple[Path, Path, Path]:
    return root / "vi", root / "ir", root / "fused"


def test_any_extension_case_and_channels(tmp_path: Path) -> None:
    vi = write(tmp_path / "vi" / "A.png", 1, channels=3)
    ir = write(tmp_path / "ir" / "a.bmp", 2)
    fused = write(tmp_path / "fused" / "a.PNG", 3, channels=3)
    found = find_triples(*folders(tmp_path))
    check_complete(found)
    values = measure_triple(found.triples[0], DEFAULT)
    rgb = [to_tensor(np.ascontiguousarray(x[:, :, ::-1])) for x in (fused, vi)]
    names = [name for name in DEFAULT if name != "MS_SSIM"]
    expected = measure(*rgb, to_tensor(ir), names)
    assert {name: values[name] for name in names} == {n: float(expected[n]) for n in names}
    assert np.isnan(values["MS_SSIM"])


def test_a_palette_picture_is_its_colours(tmp_path: Path) -> None:
    from PIL import Image

    levels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = Image.fromarray(levels, mode="P")
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(tmp_path / "p.png")
    assert np.array_equal(read_picture(tmp_path / "p.png")[..., 0], 255 - levels)


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        write(folder / "a.png", 1)
    write(tmp_path / "vi" / "b.png", 1)
    found = find_triples(*folders(tmp_path))
    assert [triple.name for triple in found.triples] == ["a.png"]
    with pytest.raises(ValueError, match=r"b\.png: has no IR and no fused picture"):
        check_complete(found)


def test_sizes_must_agree(tmp_path: Path) -> None:
    for folder, size in zip(folders(tmp_path), (SIZE, SIZE, (40, 44)), strict=True):
        write(folder / "a.png", 1, size=size)
    with pytest.raises(ValueError, match=r"fused/a\.png is 44x40.*vi/a\.png is 44x48"):
        measure_triple(find_triples(*folders(tmp_path)).triples[0], DEFAULT)


def test_folders_that_cannot_be_matched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vi: no such folder"):
        find_triples(*folders(tmp_path))
    (tmp_path / "vi").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        find_triples(*folders(tmp_path))
    write(tmp_path / "vi" / "a.png", 1)
    write(tmp_path / "vi" / "a.bmp", 1)
    with pytest.raises(ValueError, match=r"a\.bmp and a\.png have one name"):
        find_triples(*folders(tmp_path))


def test_our_own_results_of_16_bits_are_measured(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    for name, image in (("8", levels), ("16", levels.astype(np.uint16) * 257)):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    assert np.array_equal(read_picture(tmp_path / "16.png"), read_picture(tmp_path / "8.png"))


def test_radiometric_infrared_is_measured_in_one_window(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        levels = write(folder / "a.png", 1)
    deep = 28000 + levels.astype(np.uint16) * 10
    assert cv2.imwrite(str(tmp_path / "ir" / "a.png"), deep)
    found = with_windows(
        find_triples(*folders(tmp_path)), {"ir": WindowRule(low=28000, high=30550)}
    )
    assert found.triples[0].ir_window is not None
    expected = write(tmp_path / "ir" / "a.png", 1)
    assert np.array_equal(levels, expected)
    eight = measure_triple(find_triples(*folders(tmp_path)).triples[0], DEFAULT)
    assert cv2.imwrite(str(tmp_path / "ir" / "a.png"), deep)
    np.testing.assert_equal(measure_triple(found.triples[0], DEFAULT), eight)


def test_false_colour_infrared_is_refused(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        write(folder / "a.png", 1, channels=3)
    with pytest.raises(ValueError, match=r"ir/a\.png: infrared picture is in \(false\) colour"):
        measure_triple(find_triples(*folders(tmp_path)).triples[0], DEFAULT)
