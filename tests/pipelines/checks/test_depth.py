"""Pictures of more than 8 bits: one window for a folder."""

import numpy as np
import pytest

from pipelines.checks.depth import FULL_SCALE, Window, WindowRule, apply_window, find_window


def frames() -> dict[str, np.ndarray]:
    """Radiometric frames whose own ranges differ: a window of each would flicker."""
    ramp = np.linspace(0, 1000, 64 * 64).reshape(64, 64)
    return {f"{i}.tiff": (28000 + 500 * i + ramp).astype(np.uint16) for i in range(5)}


def test_a_folder_is_measured_as_one() -> None:
    pictures = frames()
    window = find_window([*pictures], pictures.__getitem__, None, from_zero=False)
    assert window is not None
    assert window.low == pytest.approx(28000, abs=20)
    assert window.high == pytest.approx(31000, abs=20)
    eight = [apply_window(image, window, name) for name, image in pictures.items()]
    assert [image.dtype for image in eight] == [np.uint8] * 5
    assert eight[0].min() == 0
    assert eight[4].max() == 255
    # The same level is the same grey in every frame.
    level = pictures["2.tiff"][0, 0]
    near = [
        np.abs(p.astype(int) - level).argmin() for p in (pictures["1.tiff"], pictures["2.tiff"])
    ]
    assert abs(int(eight[1].ravel()[near[0]]) - int(eight[2].ravel()[near[1]])) <= 1


def test_rules() -> None:
    pictures = frames()

    def found(text: str) -> Window | None:
        rule = WindowRule.parse(text, "--x")
        return find_window([*pictures], pictures.__getitem__, rule, from_zero=False)

    assert found("27000:32000") == Window(dtype="uint16", low=27000, high=32000)
    half = found("0%:50%")
    assert half is not None
    assert (half.low, half.high) == (28000, pytest.approx(29500, abs=30))
    assert found("full") == FULL_SCALE
    visible = find_window([*pictures], pictures.__getitem__, None, from_zero=True)
    assert visible is not None
    assert visible.low == 0
    assert WindowRule.parse(None, "--x") is None
    for text in ("2:1", "a:b", "1%:5", "7"):
        with pytest.raises(ValueError, match=f"--x {text}: write LOW:HIGH"):
            WindowRule.parse(text, "--x")


def test_pictures_that_fill_their_scale_keep_it() -> None:
    image = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    window = find_window(["a"], lambda uri: image, None, from_zero=False)
    assert window == FULL_SCALE
    assert np.array_equal(apply_window(image, window, "a"), np.rint(image / 257).astype(np.uint8))
    assert apply_window(image, window, "a", deep=True) is image


def test_floats_and_depths_that_differ() -> None:
    kelvin = np.linspace(280, 310, 100, dtype=np.float32).reshape(10, 10)
    window = Window(dtype="float32", low=280, high=310)
    assert apply_window(kelvin, window, "a", deep=True).max() == 65535
    kelvin[0, 0] = np.nan
    with pytest.raises(ValueError, match="a: holds values that are no numbers"):
        apply_window(kelvin, window, "a")
    with pytest.raises(ValueError, match=r"3\.tiff: uint8 picture in a folder of float32 ones"):
        apply_window(np.zeros((4, 4), np.uint8), window, "3.tiff")


def test_most_pictures_tell_the_depth_and_bad_ones_nothing() -> None:
    pictures = frames() | {"8.tiff": np.zeros((64, 64), np.uint8)}

    def decode(uri: str) -> np.ndarray:
        if uri not in pictures:
            raise ValueError(f"{uri}: not an image")
        return pictures[uri]

    window = find_window([*pictures, "bad.tiff"], decode, None, from_zero=False)
    assert window is not None
    assert window.dtype == "uint16"
    assert find_window(["8.tiff", "bad.tiff"], decode, None, from_zero=False) is None
    assert find_window(["bad.tiff"], decode, None, from_zero=False) is None
