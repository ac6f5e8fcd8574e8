"""The Python call."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.fuse.call import load_model
from tests.conftest import needs_small


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 32, 3), np.uint8), rng.integers(0, 256, (24, 32), np.uint8)


def test_arrays_and_paths_come_to_the_same(
    tiny_bundle: Path, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    vi, ir = pair
    model = load_model(str(tiny_bundle), device="cpu")
    fused = model(vi, ir)
    assert (fused.shape, fused.dtype) == (vi.shape, np.uint8)
    paths = tmp_path / "vi.png", tmp_path / "ir.png"
    cv2.imwrite(str(paths[0]), vi[:, :, ::-1])
    cv2.imwrite(str(paths[1]), ir)
    assert np.array_equal(model(*paths), fused)
    small = vi[:16, :16], ir[:16, :16, None]
    several = model.batch([(vi, ir), small, (vi[:, ::-1], ir[:, ::-1])])
    assert [each.shape for each in several] == [(24, 32, 3), (16, 16, 3), (24, 32, 3)]
    # By a level, for sums of a batch may round otherwise.
    assert np.abs(several[0].astype(int) - fused).max() <= 1
    assert model(vi.astype(np.uint16) * 257, ir).dtype == np.uint16


@needs_small
def test_the_readme_is_true(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    [block] = [each for each in blocks if "jobs.fuse.call" in each]
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("VI.png", pair[0])
    cv2.imwrite("IR.png", pair[1])
    names: dict[str, object] = {}
    exec(block, names)
    fused = names["fused"]
    assert isinstance(fused, np.ndarray)
    assert fused.shape == pair[0].shape


def test_mistakes_name_the_pair(tiny_bundle: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    vi, ir = pair
    model = load_model(str(tiny_bundle), device="cpu")
    for given, message in (
        ((vi / 255, ir), "pair 0: vi is float64 of shape"),
        ((vi, ir[:20]), "pair 0: VI is 32x24 but IR is 32x20"),
        ((vi, "ir.png"), "pair 0: give two arrays or two paths"),
        ((vi, vi), "pair 0: infrared picture is in"),
        ((vi[:8], ir[:8]), "pair 0: images must be at least 16"),
    ):
        with pytest.raises(ValueError, match=message):
            model(*given)
    with pytest.raises(ValueError, match="with this repository come"):
        load_model("nowhere")
