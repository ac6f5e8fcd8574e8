"""What a training finds out about the scenes of its dataset, read once."""

from pathlib import Path

import pytest

from jobs.train import inputs as train_inputs
from jobs.train.inputs import Sources, find_sources
from pipelines.datasets.plan import DatasetConfig
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult, scan
from pipelines.sources.scenes import Scene
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version
from tests.settings import embedded_settings


def test_the_index_that_a_version_was_made_of_is_read_once(
    scene_folder: Path,
    config: DatasetConfig,
    scenes: list[Scene],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = config.model_copy(update={"name": "rendered-small"})
    version = make_version(LocalFolder(tmp_path / "sets"), named, scenes)
    settings = embedded_settings(tmp_path / "work")
    assert find_sources(version, settings) == Sources()
    index = scan(scene_folder, dataset="rendered")
    # One that is no part of the version's name, and one of the name that has other scenes by now.
    write_index(index, settings.work / "scenes" / "other.parquet")
    changed = ScanResult(scenes=index.scenes[1:], refused=())
    write_index(changed, settings.work / "scenes" / "rendered.parquet")
    assert find_sources(version, settings) == Sources()
    write_index(index, settings.work / "scenes" / "rendered.parquet")
    reads = []
    read = train_inputs.read_index
    monkeypatch.setattr(train_inputs, "read_index", lambda path: reads.append(path) or read(path))
    sources = find_sources(version, settings)
    assert len(reads) == 1
    assert sources.trained is not None
    assert set(sources.trained) == set(scenes)
    assert sources.unseen is not None
    assert (sources.index, sources.unseen_split) == ("rendered", "val")
    assert sources.unseen.ids() == ["rendered-val-0000", "rendered-val-0001", "rendered-val-0002"]
