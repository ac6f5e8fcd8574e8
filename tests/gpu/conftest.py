"""Every test here needs a CUDA device; where there is none it is skipped, and says so.

A borrowed machine lacks much of what the tests' own `conftest.py` imports, so nothing of that is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.settings import Settings
from pipelines.bundles.export import write_bundle
from pipelines.datasets.plan import DatasetConfig, ShardConfig, plan_shards
from pipelines.datasets.shards.writing import write_shard
from pipelines.datasets.versions import DatasetVersion, Made, publish_version
from pipelines.sources.index import write_index
from pipelines.sources.scan import scan
from pipelines.store.folders import LocalFolder
from pipelines.synthetic.pairs import write_scenes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them without a GPU."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the index `rendered`, sixteen pairs for training and three for validation."""
    folder = tmp_path_factory.mktemp("work")
    sizes = {"height": 64, "width": 80}
    write_scenes(folder / "pairs", split_counts={"train": 16, "val": 3}, seed=3, **sizes)
    write_index(scan(folder / "pairs", dataset="rendered"), folder / "scenes" / "rendered.parquet")
    return folder


@pytest.fixture(scope="session")
def settings(work: Path) -> Settings:
    """Settings of that folder, without servers."""
    return Settings(work=work, tracking_uri="", artifact_root=None, ray_address=None)


@pytest.fixture(scope="session")
def dataset(work: Path) -> tuple[DatasetVersion, LocalFolder]:
    """A version of the training pairs, made here."""
    scenes = scan(work / "pairs", dataset="rendered").scenes.of_split("train")
    shard = ShardConfig(vi=("blur", "low_light"), ir=("random_noise", "stripe_noise"))
    config = DatasetConfig(name="rendered", scenes_per_shard=6, shard=shard)
    root = LocalFolder(work / "datasets")
    shards = [write_shard(spec, root).info for spec in plan_shards(config, scenes)]
    made = Made("0" * 40, "2026-01-01")
    return publish_version(root, config, scenes, shards, made), root


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of DSPFusion's tiny fuser."""
    from models.dspfusion.config import tiny
    from models.dspfusion.fuser import DSPFusionFuser

    torch.manual_seed(0)
    fuser: Any = DSPFusionFuser(tiny()).eval()
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, fuser.config, fuser, origin={})
    return folder
