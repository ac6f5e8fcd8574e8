"""Which test files share one of xdist's processes, where pytest runs in several."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

_TOGETHER = {
    # They start Ceph's gateway, which listens at one address.
    "tests/infra/cluster/test_run_folder.py": "gateway",
    "tests/infra/test_storage.py": "gateway",
    "tests/jobs/generate/test_generate_s3.py": "gateway",
    "tests/jobs/test_mlflow_server.py": "gateway",
    # They look at one demo.
    "tests/jobs/test_demo.py": "demo",
    "tests/jobs/promote/test_trace.py": "demo",
}

# They take longest, so they begin first: else the other processes would wait for the one that has them.
# What waits for clusters and servers and what computes take turns, so that they run beside each other.
FIRST = (
    "tests/jobs/test_mlflow_server.py",
    "tests/infra/cluster/test_nodes.py",
    "tests/pipelines/bundles/test_every_system.py",
    "tests/jobs/submit/test_submit.py",
    "tests/toy/test_toy.py",
    "tests/pipelines/bundles/test_export.py",
    "tests/jobs/test_demo.py",
    "tests/jobs/test_import_released.py",
    "tests/jobs/train/test_killed.py",
    "tests/jobs/test_recipes.py",
    "tests/jobs/test_exactly_once.py",
    "tests/models/test_compiled.py",
    "tests/infra/cluster/test_ddp.py",
    "tests/pipelines/training/test_loop.py",
    "tests/infra/test_outage.py",
    "tests/models/test_metrics.py",
    "tests/infra/test_serving.py",
    "tests/jobs/bench/test_training_loop.py",
    "tests/jobs/serve/test_serve.py",
    "tests/models/lure/test_stage1.py",
    "tests/pipelines/training/test_ddp.py",
    "tests/models/test_devices.py",
)


class FileScheduling(LoadScopeScheduling):
    """Each file, or what must stay together, as a whole to the next process that is nearly idle.

    xdist's own `--dist loadgroup` needs node ids that can be renamed, which pytest 9.2 ended.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _TOGETHER.get(file, file)

    def _reschedule(self, node: Any) -> None:
        # A process begins a test when it knows the next one. More ahead than that would wait
        # behind a long test while the other process is idle.
        if len(self.workqueue) and self._pending_of(self.assigned_work[node]) > 1:
            return
        super()._reschedule(node)
