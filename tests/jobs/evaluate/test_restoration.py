"""`jobs.evaluate restoration`: a table of single pictures by task, from a checkpoint."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infra.settings import Settings
from jobs.evaluate.restoration import measure_restoration
from jobs.evaluate.scenes import SceneChoice
from jobs.scan.run import scan_folder
from models.lure import SYSTEM
from models.lure.config import Stage1Config, tiny
from pipelines.datasets.plan import ShardConfig
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules
from pipelines.training.checkpoints import save_checkpoint
from pipelines.training.config import OptimConfig, TrainingConfig
from pipelines.training.optimiser import start_state

SHARD = ShardConfig(vi=("low_light",), ir=("stripe_noise", "random_noise"), num_negatives=2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A work folder with the index `lol`: two pictures of one camera, each with a darker one."""
    rng = np.random.default_rng(0)
    for name in "ab":
        clean = rng.integers(60, 200, (200, 208, 3), np.uint8)
        for role, picture in (("gt", clean), ("lq", clean // 3)):
            path = tmp_path / "lol" / "test" / role / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
    settings = Settings(
        work=tmp_path / "work", tracking_uri="unused", artifact_root=None, ray_address=None
    )
    rules = ScanRules(layout=Layout(camera="vi", lq="low_light"))
    scan_folder(tmp_path / "lol", settings, name="lol", rules=rules)
    return settings


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Stage I of the smallest model, which has seen two tasks and learned nothing."""
    torch.manual_seed(0)
    config = TrainingConfig(
        objective=Stage1Config(model=tiny()), optim=OptimConfig(num_steps=1, crop_px=32)
    )
    objective = SYSTEM.build_objective(config.objective)
    maps = torch.rand(4, 4, 32, 32)
    objective.routers.vi.observe(torch.cat([maps, maps / 9]), torch.tensor([0] * 4 + [4] * 4))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    state = start_state(objective, config.optim)
    save_checkpoint(folder, state, step=0, config_json=config.model_dump_json())
    return folder


def test_a_row_for_each_camera_and_task(settings: Settings, checkpoint: Path) -> None:
    out = settings.work / "restoration.csv"
    kinds = measure_restoration(
        str(checkpoint), settings, out, SceneChoice("lol", "test"), shard=SHARD
    )
    assert [*kinds] == [("vi", "clean"), ("vi", "low_light (own files)")]
    with out.open(newline="") as stream:
        rows = {row["suffers"]: row for row in csv.DictReader(stream)}
    assert float(rows["clean"]["PSNR_input"]) == float("inf")
    dark = rows["low_light (own files)"]
    assert dark["pictures"] == "2"
    assert float(dark["PSNR_input"]) == kinds["vi", "low_light (own files)"]["PSNR_input"] < 15
    assert float(dark["latent_gap"]) > 0
    assert rows["clean"]["latent_gap"] == ""
    elsewhere = SceneChoice("lol", "test", "tno")
    with pytest.raises(ValueError, match="no scene of data set 'tno'"):
        measure_restoration(str(checkpoint), settings, out, elsewhere, shard=SHARD)


def test_a_system_without_prompts_is_told_so(settings: Settings) -> None:
    with pytest.raises(ValueError, match="dspfusion takes no prompts"):
        measure_restoration(
            "small", settings, Path("unused"), SceneChoice("lol", "test"), shard=SHARD
        )
