"""Ray for real: tasks and a DDP group that lose workers, on one cluster for the session."""

from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from infra import cluster, tracking
from infra.settings import Settings
from tests.infra import ray_workloads

pytestmark = pytest.mark.ray


def test_tasks_survive_a_dead_worker(ray_settings: Settings, tmp_path: Path) -> None:
    results = cluster.map_tasks(ray_workloads.square_or_die, range(6), str(tmp_path))
    assert sorted(results) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "died").exists()


def test_tasks_in_flight_are_bounded(ray_settings: Settings, tmp_path: Path) -> None:
    running = cluster.map_tasks(
        ray_workloads.count_in_flight, range(5), str(tmp_path), max_in_flight=1
    )
    assert list(running) == [1] * 5


@pytest.mark.slow
def test_actors_survive_an_item_that_kills_them(ray_settings: Settings, tmp_path: Path) -> None:
    """It is tried twice and comes back with the error; what is held is made anew, and goes on."""
    arguments = (ray_workloads.Counted, [0, 1, 2, 3], str(tmp_path))
    found = dict(cluster.map_actors(*arguments, num_actors=1))
    assert isinstance(found.pop(1), RayActorError)
    assert found == {0: 1, 2: 1, 3: 2}
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_for_people_arrives_as_itself(ray_settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"^picture 0 is bad; look at it$"):
        list(cluster.map_tasks(ray_workloads.refuse, range(1)))


def test_ddp_survives_a_dead_worker_and_logs_each_step_once(
    ray_settings: Settings, tmp_path: Path
) -> None:
    client = tracking.connect(ray_settings)
    run_id = tracking.open_run(client, name="count", config={}, tags={}).info.run_id
    checkpoint = cluster.run_ddp(
        ray_workloads.count_steps,
        {"folder": str(tmp_path)},
        name="count",
        storage=tmp_path / "runs",
        num_workers=2,
        use_gpu=False,
        on_report=tracking.ReportLogger(ray_settings.tracking_uri, run_id),
    )
    assert (tmp_path / "died").exists()
    assert (checkpoint / "step").read_text() == "6"
    # Step 3 was trained twice; the mean over both ranks of each step is there once.
    expected = [(step, 10.0 * step + 0.5) for step in range(1, 7)]
    assert tracking.metric_curve(client, run_id, "loss") == expected
    assert tracking.metric_curve(client, run_id, "samples_per_s") == [(n, 2.0) for n in range(1, 7)]
    peaks = tracking.metric_curve(client, run_id, "host_peak_mib")
    assert peaks == [(n, 101.0) for n in range(1, 7)]
    # So is the picture that rank 0 drew of it, and the one after the restart.
    pictures = tracking.fetch_folder(run_id, "previews", tmp_path / "pictures")
    assert {path.name: path.read_text() for path in pictures.iterdir()} == {
        "step-00000003.png": "picture 3",
        "step-00000006.png": "picture 6",
    }


def test_more_workers_than_the_cluster_can_hold(ray_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 workers need 64 CPUs, the cluster has 2"):
        cluster.run_ddp(
            ray_workloads.count_steps,
            {"folder": str(tmp_path)},
            name="many",
            storage=tmp_path / "runs",
            num_workers=64,
            use_gpu=False,
            on_report=print,
        )
