"""What Prometheus reads of us on a real node, and the dashboard that draws it."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from infra.cluster.tasks import map_tasks
from infra.prometheus import (
    METERS,
    count_batch,
    count_request,
    count_seen,
    count_shard,
    export_drift,
    export_served,
)
from infra.registry import tracking
from infra.registry.report_log import ReportLogger
from infra.settings import REPOSITORY, Settings
from pipelines.store.folders import LocalFolder
from tests.infra import ray_workloads

DASHBOARD = json.loads((REPOSITORY / "infra" / "grafana" / "fusion.json").read_text())
# Ray's own, which the real endpoint is asked for below.
OF_RAY = {"ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"}


def queries() -> list[str]:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] for panel in panels)
    return [target["expr"] for panel in panels for target in panel["targets"]]


def named(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def test_every_query_names_metrics_that_are_defined_and_each_is_drawn() -> None:
    ours = {name for meter in METERS.values() for name in meter.exported}
    drawn: set[str] = set()
    for query in queries():
        assert named(query), query
        assert named(query) <= ours | OF_RAY, query
        drawn |= named(query)
    for meter in METERS.values():
        assert drawn & set(meter.exported), f"{meter.name} is on no panel"


def test_labels_of_the_dashboard_are_tags() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            tags = {
                tag
                for meter in METERS.values()
                if named(target["expr"]) & set(meter.exported)
                for tag in meter.tags
            }
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - {"instance"}
            assert used <= tags, panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_node_exports_them(ray_settings: Settings, tmp_path: Path) -> None:
    import ray

    client = tracking.connect(ray_settings)
    run_id = tracking.open_run(client, name="told", config={}, tags={}).info.run_id
    assert len(list(map_tasks(ray_workloads.square_or_die, range(6), str(tmp_path)))) == 6
    count_shard(num_images=26, num_bytes=1000)
    count_request(200, 0.5)
    count_batch("1", 2)
    export_served("m", 1)
    count_seen("vi", "haze", 0.5)
    export_drift("vi", drifts=False)
    report = {"step": 3.0, "loss": 1.5, "samples_per_s": 2.0, "data_wait_share": 0.25}
    ReportLogger(ray_settings.tracking_uri, run_id, LocalFolder(tmp_path))([report, report])
    port = ray.nodes()[0]["MetricsExportPort"]
    # Another test of this process may have told of the same names already.
    of_this = {
        "ray_fusion_training_samples_per_s": run_id,
        "ray_fusion_data_wait_share": run_id,
        "ray_fusion_task_retries_total": 'task="square_or_die"',
    }
    wanted = {name for meter in METERS.values() for name in meter.exported} | OF_RAY
    deadline = time.monotonic() + 300
    absent, found = sorted(wanted), dict[str, list[str]]()
    while absent:
        assert time.monotonic() < deadline, f"not exported: {absent}"
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {name: [] for name in wanted}
        for line in text.splitlines():
            name = re.split(r"[{ ]", line)[0]
            if of_this.get(name, "") in line and name in wanted:
                found[name].append(line)
        absent = sorted(name for name in wanted if not found[name])
    [speed] = found["ray_fusion_training_samples_per_s"]
    assert speed.endswith(" 4.0")  # the sum of two ranks
    # At least: other tests of this process have made shards, too.
    images = [float(line.rpartition(" ")[2]) for line in found["ray_fusion_images_total"]]
    assert any(count >= 26 for count in images)
    waits = found["ray_fusion_data_wait_share"]
    assert {re.search(r'rank="(\d)"', line).group(1) for line in waits} == {"0", "1"}  # type: ignore[union-attr]
