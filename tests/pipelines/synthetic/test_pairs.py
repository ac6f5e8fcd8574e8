from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.synthetic.canvas import Label
from pipelines.synthetic.pairs import paint_layout, render_scene, write_scenes
from pipelines.synthetic.street import draw_layout

SEEDS = range(16)
NIGHTS = [seed for seed in SEEDS if draw_layout(seed).climate.night]
DAYS = [seed for seed in SEEDS if not draw_layout(seed).climate.night]


@cache
def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rendered once for all tests that only look: visible, infrared, labels."""
    return *render_scene(seed), labels_of(seed)


def labels_of(seed: int, *, height: int = 240, width: int = 320) -> np.ndarray:
    """The `Label` of every pixel of a scene, uint8 H×W: from the canvas that its pictures are of."""
    return paint_layout(draw_layout(seed), height, width, np.random.default_rng([seed, 1])).labels


def edges(image: np.ndarray) -> np.ndarray:
    grey = image.astype(np.float32).max(axis=2)
    return np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))


def rim(mask: np.ndarray, width_px: int) -> np.ndarray:
    """The pixels round a mask, without those that touch it."""
    grow = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    return (cv2.dilate(near, grow) - near).astype(bool)


def files_below(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(folder: Path, counts: dict[str, int], **options) -> None:
    write_scenes(folder, split_counts=counts, seed=7, height=32, width=48, **options)


def pixels_below(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (53, 37), (240, 320)])
@pytest.mark.parametrize("seed", [NIGHTS[0], DAYS[0]])
def test_sizes_and_types(seed, size):
    vi, ir = render_scene(seed, height=size[0], width=size[1])
    assert vi.shape == (*size, 3)
    assert ir.shape == (*size, 1)
    assert vi.dtype == ir.dtype == np.uint8
    assert vi.flags.c_contiguous
    assert ir.flags.c_contiguous
    assert vi.std() > 5
    assert ir.std() > 5


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="8×64"):
        render_scene(0, height=8, width=64)


@pytest.mark.parametrize("seed", [NIGHTS[0], DAYS[0]])
def test_the_same_seed_gives_the_same_bytes(seed):
    first, second = (render_scene(seed, height=60, width=80) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


def test_different_seeds_differ():
    scenes = {render_scene(seed, height=30, width=40)[0].tobytes() for seed in SEEDS}
    assert len(scenes) == len(SEEDS)


def test_day_and_night_are_both_frequent():
    nights = sum(draw_layout(seed).climate.night for seed in range(200))
    assert 70 < nights < 130


def test_the_layout_is_the_same_at_every_size():
    small = labels_of(DAYS[0], height=120, width=160)
    large = labels_of(DAYS[0], height=240, width=320)
    assert (large[::2, ::2] == small).mean() > 0.9


def test_nights_are_dark_and_days_are_not():
    nights = [render_scene(seed, height=60, width=80)[0].mean() for seed in NIGHTS]
    days = [render_scene(seed, height=60, width=80)[0].mean() for seed in DAYS]
    assert max(nights) < min(days)
    assert max(nights) < 70


@pytest.mark.parametrize("which", [0, 1], ids=["vi", "ir"])
def test_edges_of_objects_lie_where_the_labels_say(which):
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    strength = np.zeros(len(shifts))
    for seed in DAYS:
        labels = scene(seed)[2]
        border = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        picture = edges(scene(seed)[which])
        strength += [np.roll(picture, shift, (0, 1))[border].mean() for shift in shifts]
    assert shifts[int(strength.argmax())] == (0, 0)


def test_lamps_shine_for_the_eye_and_not_for_the_infrared_camera():
    shining = 0
    for seed in NIGHTS:
        vi, ir, labels = scene(seed)
        heads = (labels == Label.LAMP) & (vi.max(axis=2) > 250)
        shining += heads.sum()
        assert (ir[heads] < 0.45 * 255).all()
    assert shining > 20 * len(NIGHTS)


def test_a_lamp_has_a_halo():
    vi, _, labels = scene(NIGHTS[0])
    heads = (labels == Label.LAMP) & (vi.max(axis=2) > 250)
    sky = vi[:20].max(axis=2)
    assert np.median(vi.max(axis=2)[rim(heads, 3)]) > np.median(sky) + 15


@pytest.mark.parametrize("seed", SEEDS)
def test_people_are_warmer_than_what_is_round_them(seed):
    _, ir, labels = scene(seed)
    people = labels == Label.PERSON
    assert people.sum() > 40
    assert np.median(ir[people]) > np.median(ir[rim(people, 4)]) + 50


def test_people_are_hard_to_see_at_night():
    for seed in NIGHTS:
        vi, ir, labels = scene(seed)
        people = labels == Label.PERSON
        around = rim(people, 4)
        seen = abs(np.median(vi[people]) - np.median(vi[around]))
        assert seen < 0.3 * (np.median(ir[people]) - np.median(ir[around]))


def test_engines_that_run_are_warm():
    hottest = [scene(s)[1][scene(s)[2] == Label.VEHICLE].max() for s in SEEDS]
    assert np.median(hottest) > 150


def test_files_and_progress(tmp_path):
    done: list[int] = []
    write(tmp_path, {"train": 2, "val": 1}, on_progress=done.append)
    assert done == [1, 2, 3]
    assert set(files_below(tmp_path)) == {
        f"{split}/{modality}/{index:04d}.png"
        for split, index in (("train", 0), ("train", 1), ("val", 0))
        for modality in ("vi", "ir")
    }
    ir = cv2.imread(str(tmp_path / "val/ir/0000.png"), cv2.IMREAD_UNCHANGED)
    assert ir.shape == (32, 48)
    assert len(set(pixels_below(tmp_path).values())) == 6


def test_files_are_stored_in_rgb(tmp_path):
    # Tail lamps and bricks are red, daylight sky is blue: swapped channels would show.
    write_scenes(tmp_path, split_counts={"train": 8}, seed=7, height=60, width=80)
    blue_minus_red = []
    for path in sorted((tmp_path / "train/vi").iterdir()):
        stored = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
        blue_minus_red.append((stored[:6, :, 2] - stored[:6, :, 0]).mean())
    assert max(blue_minus_red) > 20


def test_a_second_run_writes_nothing(tmp_path):
    write(tmp_path, {"train": 2})
    before = files_below(tmp_path)
    write(tmp_path, {"train": 2})
    assert files_below(tmp_path) == before


def test_more_scenes_change_no_earlier_one(tmp_path):
    write(tmp_path, {"train": 1})
    before = pixels_below(tmp_path)
    write(tmp_path, {"val": 1, "train": 2})
    after = pixels_below(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 6


def test_another_seed_gives_other_scenes(tmp_path):
    write_scenes(tmp_path / "a", split_counts={"train": 1}, seed=1, height=32, width=48)
    write_scenes(tmp_path / "b", split_counts={"train": 1}, seed=2, height=32, width=48)
    first, second = pixels_below(tmp_path / "a"), pixels_below(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_a_truncated_file_is_written_again(tmp_path):
    write(tmp_path, {"train": 1})
    whole = pixels_below(tmp_path)
    broken = tmp_path / "train/vi/0000.png"
    broken.write_bytes(broken.read_bytes()[:100])
    untouched = tmp_path / "train/ir/0000.png"
    before = untouched.stat().st_mtime_ns
    write(tmp_path, {"train": 1})
    assert pixels_below(tmp_path) == whole
    assert untouched.stat().st_mtime_ns == before
