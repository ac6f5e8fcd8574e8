"""The whole way on real Ray and MLflow, twice, with the tiny networks: `jobs.demo --smoke`."""

from pathlib import Path

import cv2
import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from jobs.demo.run import demo
from jobs.train.visuals import MAP
from pipelines.bundles.export import read_bundle
from pipelines.results.rows import read_rows
from tests.jobs.conftest import FirstDemo

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def files_and_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_demo_twice(
    first_demo: FirstDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, work = first_demo.settings, first_demo.settings.work
    client = tracking.connect(settings)
    version = registry.find_model(client, "models:/dspfusion-demo@challenger")
    assert str(version.version) == "1"
    # From the version back to its runs, its data and its code.
    stage2 = client.get_run(version.run_id)
    stage1 = client.get_run(version.tags["init_from"].removeprefix("runs:/"))
    for run in (stage1, stage2):
        assert run.info.status == "FINISHED"
        assert run.data.tags["dataset_version"] == version.tags["dataset_version"]
        assert len(run.data.tags["git_commit"].removesuffix("+dirty")) in (40, len("unknown"))
        curve = tracking.metric_curve(client, run.info.run_id, "loss")
        assert [step for step, _ in curve] == [2, 4]
        assert run.data.params["optim.num_steps"] == "4"
        assert len(run.inputs.dataset_inputs) == 1
        assert {"host_peak_mib", "data_wait_share", "samples_per_s"} <= run.data.metrics.keys()
        pictures = [file.path for file in client.list_artifacts(run.info.run_id, "previews")]
        assert pictures == ["previews/step-00000002.png", "previews/step-00000004.png"]
    assert {"prior_accuracy", "type_accuracy"} <= stage1.data.metrics.keys()
    names = {file.path for file in client.list_artifacts(stage1.info.run_id)}
    assert MAP in names
    [reports] = (work / "reports").iterdir()
    rows = read_rows(reports / "rows.parquet")
    assert {row["method"] for row in rows} == {"model", "average", "maximum"}
    page = (reports / "report.html").read_text()
    assert page.count("data:image/") >= 6
    assert version.tags["evaluation_run_id"] in page
    # What `jobs.serve` tells of a pair was learnt with it.
    types = read_bundle(registry.fetch_bundle(client, version, tmp_path)).types
    assert types is not None
    assert "clean" in types.means["vi"]
    # Four steps make no champion, and the gate says why.
    assert first_demo.champion is None
    assert "refused" in first_demo.said
    assert cv2.imread(str(work / "demo" / "fused" / "fused.png")).shape == (192, 256, 3)

    kept = [work / name for name in ("datasets", "runs", "reports", "demo/sources")]
    before = [files_and_times(folder) for folder in kept]
    assert all(before)
    demo(settings, smoke=True)
    second = capsys.readouterr().out
    assert [files_and_times(folder) for folder in kept] == before
    assert second.count("trained already") == 2
    assert "evaluated already" in second
    assert len(client.search_model_versions("name = 'dspfusion-demo'")) == 1
