"""A DDP group that loses workers, on one real Ray cluster for the session."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from infra.cluster import ddp
from infra.cluster.ray_internals import leave_out_helpers
from infra.cluster.run_folder import fetched_checkpoint, nodes_without
from infra.settings import Settings
from tests.infra import ray_workloads

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_an_interface_that_leads_nowhere_is_named(ray_settings: Settings, tmp_path: Path) -> None:
    changes = {"runs_uri": str(tmp_path / "runs"), "network_interface": "absent0"}
    with pytest.raises(ConnectionError, match=r"FUSION_INTERFACE .*absent0"):
        ddp.run_ddp(
            partial(ray_workloads.count_steps, {"folder": str(tmp_path)}),
            name="mesh",
            settings=ray_settings.model_copy(update=changes),
            num_workers=2,
            resources={"CPU": 1},
            on_report=ray_workloads.Silent(),
        )
    free_places()


@pytest.mark.parametrize("is_embedded", [True, False])
def test_no_actor_is_started_for_datasets_nor_to_clean_up_after_an_embedded_cluster(
    is_embedded: bool,
) -> None:
    from ray.train.torch import TorchTrainer

    def names() -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    trainer = TorchTrainer(print)
    before = names()
    leave_out_helpers(trainer, is_embedded=is_embedded)
    cleaner = {"PlacementGroupCleanerCallback"} if is_embedded else set()
    assert before - names() == {"DatasetsCallback"} | cleaner


def free_places() -> None:
    """Give back what workers that could not start had reserved: Ray Train's cleaner asks the dashboard,
    which an embedded cluster has not, and the next training would wait for the place."""
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for number, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(number))))


def test_a_node_that_does_not_see_the_runs(ray_settings: Settings, tmp_path: Path) -> None:
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()}
    assert nodes_without(tmp_path, nodes) == []
    assert nodes_without(tmp_path / "absent", nodes) == [*nodes]


def run_ddp(
    loop: Callable[..., None],
    payload: dict[str, Any],
    settings: Settings,
    *,
    name: str = "run",
    num_workers: int = 1,
    resource: str = "CPU",
) -> Path | None:
    """Run a loop to its end; its last checkpoint where that is a local folder."""
    checkpoint = ddp.run_ddp(
        partial(loop, payload),
        name=name,
        settings=settings,
        num_workers=num_workers,
        resources={resource: 1},
        on_report=ray_workloads.Silent(),
    )
    with fetched_checkpoint(checkpoint) as folder:
        return folder if folder.is_dir() else None


@pytest.mark.parametrize("resource", ["CPU", "GPU"])
def test_more_workers_than_the_cluster_can_hold(
    ray_settings: Settings, tmp_path: Path, resource: str
) -> None:
    has = {"CPU": 2, "GPU": 0}[resource]
    message = f"64 workers need 64 {resource}s, the cluster has {has}; lower num_workers"
    payload = {"folder": str(tmp_path)}
    with pytest.raises(ValueError, match=message):
        run_ddp(
            ray_workloads.count_steps,
            payload,
            ray_settings,
            num_workers=64,
            resource=resource,
        )


@pytest.mark.slow
def test_an_error_that_would_come_again_is_not_tried_again(
    ray_settings: Settings, tmp_path: Path
) -> None:
    settings = ray_settings.model_copy(update={"runs_uri": str(tmp_path / "runs")})
    with pytest.raises(ValueError, match="nothing to train on"):
        run_ddp(ray_workloads.refuse_training, {"folder": str(tmp_path)}, settings)
    assert len(list(tmp_path.glob("tried-*"))) == 1


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(
    ray_settings: Settings, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """Two checkpoints fit and the third, which is written before the first is deleted, does not."""
    disk = small_disk(10)
    settings = ray_settings.model_copy(update={"runs_uri": str(disk)})
    payload = {"folder": str(tmp_path), "num_bytes": 4 * 2**20}
    with pytest.raises(OSError, match=rf"(?s)the last complete one is kept.*{disk}/run.*make room"):
        run_ddp(ray_workloads.count_steps, payload, settings)
    kept = sorted(disk.glob("run/checkpoint_*/step"))
    assert [path.read_text() for path in kept][:2] == ["2", "4"]
    small_disk(64)
    with pytest.warns(UserWarning, match="deleted 1 checkpoints that were not finished"):
        last = run_ddp(ray_workloads.count_steps, payload, settings)
    assert last is not None
    assert (last / "step").read_text() == "6"
    # Once from the start (not tried again on a disk that is full), once from the last whole one.
    assert sorted(path.read_text() for path in tmp_path.glob("started-0-*")) == ["0", "4"]
