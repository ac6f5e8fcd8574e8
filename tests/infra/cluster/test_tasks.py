"""Ray tasks and actors that lose workers, on one cluster for the session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from infra.cluster.tasks import map_actors, map_tasks
from infra.settings import WORKER_LOG, Settings
from tests.infra import ray_workloads

pytestmark = pytest.mark.ray


def test_tasks_survive_a_dead_worker(ray_settings: Settings, tmp_path: Path) -> None:
    results = map_tasks(ray_workloads.square_or_die, range(6), str(tmp_path))
    assert sorted(results) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "died").exists()


def test_tasks_in_flight_are_bounded(ray_settings: Settings, tmp_path: Path) -> None:
    running = map_tasks(ray_workloads.count_in_flight, range(5), str(tmp_path), max_in_flight=1)
    assert list(running) == [1] * 5


def test_a_store_that_was_away_is_tried_again(ray_settings: Settings, tmp_path: Path) -> None:
    assert list(map_tasks(ray_workloads.away_at_first, [7], str(tmp_path))) == [7]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_what_workers_write_is_shown_on_request(tmp_path: Path) -> None:
    program = (
        "from infra.cluster.connect import connected; from infra.cluster.tasks import map_tasks\n"
        "from infra.settings import read_settings; from tests.infra.ray_workloads import mutter\n"
        "with connected(read_settings()): list(map_tasks(mutter, range(1)))"
    )
    shown = []
    for worker_log in "01":
        environment = os.environ | {"FUSION_WORK": str(tmp_path), WORKER_LOG: worker_log}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        shown.append("of a worker alone" in done.stdout + done.stderr)
    assert shown == [False, True]


@pytest.mark.slow
def test_actors_survive_an_item_that_kills_them(ray_settings: Settings, tmp_path: Path) -> None:
    """It is tried twice and comes back with the error; what is held is made anew, and goes on."""
    arguments = (ray_workloads.Counted, [0, 1, 2, 3], str(tmp_path))
    found = dict(map_actors(*arguments, num_actors=1))
    assert isinstance(found.pop(1), RayActorError)
    assert found == {0: 1, 2: 1, 3: 2}
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_made_ends_the_run_with_the_reason(
    ray_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ChildProcessError, match=r"made its Unmakable, 2 times in a row: .*died"):
        list(map_actors(ray_workloads.Unmakable, range(9), str(tmp_path), num_actors=1))
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_for_people_arrives_as_itself(ray_settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"^picture 0 is bad; look at it$"):
        list(map_tasks(ray_workloads.refuse, range(1)))
