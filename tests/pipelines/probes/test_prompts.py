"""Single pictures under prompts, with the smallest LURE there is: what is told, tried and measured."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.lure import SYSTEM
from models.lure.config import tiny
from models.lure.fuser import LUREFuser
from pipelines.datasets.plan import ShardConfig
from pipelines.probes.prompts import (
    TRIED,
    WINDOW_PX,
    Single,
    heeded,
    heeded_in_words,
    latent_gaps,
    means_by_kind,
    restore_single,
    single_pictures,
)
from pipelines.sources.layouts import Layout
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scan import ScanRules, scan
from pipelines.sources.scenes import read_file
from tests.models.lure.samples import open_text

SHARD = ShardConfig(vi=("blur", "low_light"), ir=("stripe_noise",), num_negatives=2)
PROMPTED = SYSTEM.prompted
assert PROMPTED is not None


def single(suffers: str = "low_light", *, scene: str = "a", seed: int = 0) -> Single:
    rng = np.random.default_rng(seed)
    gt = rng.integers(50, 200, (WINDOW_PX, WINDOW_PX, 3), np.uint8)
    return Single(scene, "vi", suffers, False, gt // 2, gt)


@pytest.fixture(scope="module")
def fuser() -> LUREFuser:
    """It takes what is dark for low light, and the rest for blur."""
    torch.manual_seed(0)
    fuser = LUREFuser(tiny()).eval()
    open_text(fuser)
    for seed in range(4):
        for task, picture in ((4, single(seed=seed).lq), (1, single(seed=seed).gt)):
            maps = fuser.encoders["vi"].embed(to_tensor(picture))
            fuser.routers.vi.observe(maps, torch.tensor([task]))
    return fuser


def test_a_picture_is_restored_under_each_prompt(fuser: LUREFuser) -> None:
    picture = single(seed=9)
    restored = restore_single(PROMPTED, fuser, picture, SHARD.vi)
    assert restored.seen == "low_light"
    assert restored.values.keys() == {f"{m}_{name}" for m in ("PSNR", "SSIM") for name in TRIED}
    assert restored.values["PSNR_auto"] == restored.values["PSNR_own"]
    assert restored.values["PSNR_wrong"] != restored.values["PSNR_own"]
    assert restored.values["PSNR_clean"] != restored.values["PSNR_own"]
    clean = Single("a", "vi", "clean", False, picture.gt, picture.gt)
    assert math.isinf(restore_single(PROMPTED, fuser, clean, SHARD.vi).values["PSNR_input"])


def test_what_has_no_prompt_is_refused(fuser: LUREFuser) -> None:
    with pytest.raises(ValueError, match="vi 'fog' has no prompt, only: clean, blur"):
        restore_single(PROMPTED, fuser, single("fog"), SHARD.vi)


def test_means_and_gaps_are_of_each_kind(fuser: LUREFuser) -> None:
    singles = [single(scene="a", seed=1), single(scene="b", seed=2), single("blur", seed=3)]
    means = means_by_kind(restore_single(PROMPTED, fuser, one, SHARD.vi) for one in singles)
    # The third is dark, too, and said to be blurred.
    assert [(kind, of["pictures"], of["found"]) for kind, of in means.items()] == [
        (("vi", "blur"), 1, 0),
        (("vi", "low_light"), 2, 1),
    ]
    gaps = latent_gaps(PROMPTED, fuser, singles)
    assert gaps.keys() == {("vi", "low_light")}
    same = [Single(one.scene, "vi", "low_light", False, one.gt, one.gt) for one in singles[:2]]
    assert 0 < latent_gaps(PROMPTED, fuser, same)["vi", "low_light"] < gaps["vi", "low_light"]


def test_a_fuser_in_numbers(fuser: LUREFuser, tmp_path: Path) -> None:
    for name in ("gt/c", "lq/c", "gt/d", "lq/d"):
        picture = single(seed=ord(name[-1]))
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), picture.lq if "lq" in name else picture.gt)
    rules = ScanRules(layout=Layout(camera="vi", lq="low_light"))
    scenes = scan(tmp_path, dataset="lol", rules=rules).scenes
    found = heeded(PROMPTED, fuser, scenes, SHARD, read=read_file)
    assert found.keys() == {"latent_gap", "task_found", *(f"PSNR_{name}" for name in TRIED)}
    assert found["task_found"] == 1
    assert found["latent_gap"] > 0
    words = heeded_in_words(found)
    assert words["degradation found out"] == "100 %"
    assert heeded(PROMPTED, fuser, [], SHARD, read=read_file) == heeded_in_words({}) == {}


def test_a_scene_gives_its_own_degraded_pictures_or_those_of_the_recipe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sides = {"pair/vi/b": 96, "pair/ir/b": 96}
    whole = ("pair/vi/a", "pair/ir/a", "lol/gt/c", "lol/lq/c", "lol/gt/d", "lol/lq/d")
    for name, side in (sides | dict.fromkeys(whole, 200)).items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = 1 if "/ir/" in name else 3
        cv2.imwrite(str(path), rng.integers(0, 255, (side, side, channels), np.uint8))
    rules = ScanRules(layout=Layout(camera="vi", lq="low_light"))
    found = [
        one
        for folder in ("pair", "lol")
        for one in single_pictures(
            scan(tmp_path / folder, dataset=folder, rules=rules).scenes, SHARD, seed=0
        )
    ]
    assert [(one.scene.partition("-")[0], one.kind) for one in found] == [
        ("pair", ("vi", "clean")),
        ("pair", ("vi", "blur")),
        ("pair", ("vi", "low_light")),
        ("pair", ("ir", "clean")),
        ("pair", ("ir", "stripe_noise")),
        ("lol", ("vi", "clean")),
        ("lol", ("vi", "low_light (own files)")),
        ("lol", ("vi", "clean")),
        ("lol", ("vi", "low_light (own files)")),
    ]
    assert all(one.lq.shape[:2] == one.gt.shape[:2] == (WINDOW_PX, WINDOW_PX) for one in found)
    assert [np.array_equal(one.lq, one.gt) for one in found] == [
        one.suffers == "clean" for one in found
    ]
