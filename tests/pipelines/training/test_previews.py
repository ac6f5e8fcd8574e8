from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.dspfusion.config import Stage2Config, tiny
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.sources.scenes import Scene, load_pair
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import LocalFolder
from pipelines.training.previews import (
    NUM_PAIRS,
    PreviewPair,
    current_fuser,
    draw_preview,
    pairs_of_scenes,
    pairs_of_shards,
    preview_grid,
)
from tests.conftest import tiny_fuser

Published = tuple[DatasetVersion, LocalFolder]
CONFIG = ShardConfig(
    vi=("blur", "rain", "haze"), ir=("low_contrast", "random_noise", "stripe_noise")
)


def flat_pair(label: str, height: int, width: int) -> PreviewPair:
    """Every picture of one grey, so that it can be found again in the grid."""

    def full(level: int, channels: int) -> np.ndarray:
        return np.full((height, width, channels), level, np.uint8)

    return PreviewPair(label, vi=full(10, 3), ir=full(20, 1), vi_gt=full(40, 3), ir_gt=full(50, 1))


def test_the_grid_shows_every_picture_at_its_place() -> None:
    pairs = [flat_pair("first", 24, 40), flat_pair("second", 16, 32)]
    fused = [np.full((24, 40, 3), 30, np.uint8), np.full((16, 32, 3), 31, np.uint8)]
    grid = preview_grid(pairs, fused)
    # Captions of 16 px above the columns and above each row, gaps of 4 px between the pictures.
    assert grid.shape == (16 + 16 + 24 + 16 + 16, 5 * 40 + 4 * 4, 3)
    for top, height, width, levels in (
        (32, 24, 40, (10, 20, 30, 40, 50)),
        (72, 16, 32, (10, 20, 31, 40, 50)),
    ):
        for column, level in enumerate(levels):
            left = column * (width + 4)
            assert (grid[top : top + height, left : left + width] == level).all()
    for caption in (grid[:16], grid[16:32], grid[56:72]):
        assert caption.min() < 128 < caption.max()  # something is written, dark on white


def test_pairs_of_unseen_scenes_go_through_the_degradations(
    scenes: list[Scene], version_root: Published
) -> None:
    config = version_root[0].config.shard
    pairs = pairs_of_scenes(scenes, config)
    assert [pair.label.partition(": ")[2] for pair in pairs] == [
        "VI blur, IR low contrast",
        "VI random noise, IR random noise",
        "VI low light, IR stripe noise",
        "VI blur, IR low contrast",
    ]
    assert len({pair.label for pair in pairs}) == NUM_PAIRS
    vi, ir = load_pair(scenes[0])
    assert np.array_equal(pairs[0].vi_gt, vi)
    assert np.array_equal(pairs[0].ir_gt, ir)
    assert not np.array_equal(pairs[0].vi, vi)
    assert not np.array_equal(pairs[0].ir, ir)
    again = pairs_of_scenes(scenes, config)
    assert all(np.array_equal(a.vi, b.vi) for a, b in zip(pairs, again, strict=True))
    assert len(pairs_of_scenes(scenes[:2], config)) == 2


def test_pairs_of_shards_are_stored_variants(version_root: Published) -> None:
    pairs = pairs_of_shards(*version_root)
    assert len({pair.label for pair in pairs}) == NUM_PAIRS
    assert all("(trained on)" in pair.label for pair in pairs)
    assert any(not np.array_equal(pair.vi, pair.vi_gt) for pair in pairs)
    assert {pair.ir.shape[2] for pair in pairs} == {1}


def test_large_pictures_are_cut_in_their_middle(tmp_path: Path, scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    vi, ir = rng.integers(0, 256, (400, 300, 3), np.uint8), np.zeros((400, 300, 1), np.uint8)
    for name, picture in (("vi", vi), ("ir", ir)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture[:, :, ::-1] if name == "vi" else picture)
    large = scenes[0].model_copy(
        update={"width": 300, "height": 400}
        | {
            f"{name}_{key}": value
            for name in ("vi", "ir")
            for key, value in (
                ("uri", str(tmp_path / f"{name}.png")),
                ("sha256", sha256_of_file(tmp_path / f"{name}.png")),
            )
        }
    )
    (pair,) = pairs_of_scenes([large], CONFIG)
    assert np.array_equal(pair.vi_gt, vi[104 : 104 + 192, 54 : 54 + 192])


def test_a_preview_is_a_png_of_what_the_weights_make(scenes: list[Scene]) -> None:
    pairs = pairs_of_scenes(scenes, CONFIG)
    fuser = tiny_fuser()
    state = torch.get_rng_state()
    current = current_fuser(Stage2Config(model=tiny()), fuser.state_dict())
    assert torch.equal(torch.get_rng_state(), state), "training's random numbers are its own"
    drawn = draw_preview(current, pairs)
    assert drawn == draw_preview(fuser, pairs)
    picture = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (16 + NUM_PAIRS * (64 + 16), 5 * 80 + 4 * 4, 3)
    with torch.no_grad():
        for parameter in fuser.fusion.head.output.parameters():
            parameter.add_(1)
    assert draw_preview(fuser, pairs) != drawn
    with pytest.raises(RuntimeError, match="Missing key"):
        current_fuser(
            Stage2Config(model=tiny()), {"fusion.patch_embed.weight": torch.zeros(4, 3, 3, 3)}
        )
