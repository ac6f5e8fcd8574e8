import base64
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.registry import tracking
from infra.registry.report_log import ReportLogger, merge_ranks
from pipelines.store.folders import LocalFolder
from tests.settings import tracked_settings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return tracking.connect(tracked_settings(tmp_path_factory.mktemp("reports")))


def test_a_restarted_controller_logs_no_step_twice(client: MlflowClient, tmp_path: Path) -> None:
    run_id = tracking.open_run(client, name="steps", config={}, tags={}).info.run_id
    uri = client.tracking_uri

    def report(step: int) -> list[dict[str, float]]:
        return [{"step": step, "loss": step + rank, "samples_per_s": 3.0} for rank in (0.0, 1.0)]

    before = ReportLogger(uri, run_id, LocalFolder(tmp_path))
    opened_ms = 1000 * time.time()
    for step in (10, 20, 30):
        before(report(step))
    after = ReportLogger(uri, run_id, LocalFolder(tmp_path))
    for step in (20, 30, 40):
        after(report(step))
    assert tracking.metric_curve(client, run_id, "loss") == [
        (10, 10.5),
        (20, 20.5),
        (30, 30.5),
        (40, 40.5),
    ]
    assert tracking.metric_curve(client, run_id, "samples_per_s")[0] == (10, 6.0)
    times = [metric.timestamp for metric in client.get_metric_history(run_id, "loss")]
    assert opened_ms - 1 <= times[0] <= times[-1] <= 1000 * time.time() + 1


def test_ranks_become_one() -> None:
    ranks = [
        {
            "loss": 1.0,
            "samples_per_s": 3.0,
            "host_peak_mib": 100.0,
            "step": 5.0,
            "previews": "cGc=",
        },
        {"loss": 2.0, "samples_per_s": 4.0, "host_peak_mib": 300.0, "step": 5.0},
    ]
    assert merge_ranks(ranks) == {
        "loss": 1.5,
        "samples_per_s": 7.0,
        "host_peak_mib": 300.0,
        "step": 5.0,
        "previews": "cGc=",
    }


def test_pictures_of_a_report_are_artifacts_and_the_rest_are_metrics(
    client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tracking.open_run(client, name="pictures", config={}, tags={}).info.run_id
    kept = LocalFolder(tmp_path)
    for logger in (ReportLogger(client.tracking_uri, run_id, kept) for _ in range(2)):
        for step, picture in ((4, b"four"), (8, b"eight")):
            text = base64.b64encode(picture).decode()
            logger([{"step": step, "loss": 1.0, "previews": text}])
    names = [file.path for file in client.list_artifacts(run_id, "previews")]
    assert names == ["previews/step-00000004.png", "previews/step-00000008.png"]
    folder = tracking.fetch_folder(run_id, "previews", tmp_path)
    assert (folder / "step-00000008.png").read_bytes() == b"eight"
    assert [step for step, _ in tracking.metric_curve(client, run_id, "loss")] == [4, 8]
    assert client.get_run(run_id).data.metrics.keys() == {"loss"}
