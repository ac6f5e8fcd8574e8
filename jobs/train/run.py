"""A training on the cluster, tracked in MLflow: resumed, or reused when it is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings
from jobs.console import print_facts, print_line
from jobs.locations import open_folder
from jobs.train.inputs import Planned, check_gpus, plan_training
from jobs.train.records import (
    REGISTERED,
    log_lineage,
    log_results,
    open_training_run,
    register_once,
    watch,
)
from jobs.train.task import training_task
from pipelines.datasets.versions import find_version
from pipelines.training.config import TrainingConfig, share_of_step
from pipelines.training.loop import run_training


class Trained(BaseModel):
    """A finished run, the version it registered, if its recipe says so, and the dataset's version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    model: str | None
    dataset: str


def train(
    config: TrainingConfig,
    settings: Settings,
    *,
    name: str,
    num_workers: int | None = None,
    again: bool = False,
) -> Trained:
    """Train the recipe called `name` to its end, or reuse the finished run. Raises ValueError on mistakes.

    Another number of workers than the recipe's shares the same steps, so it is the same run. With `again`
    a finished one is not reused.
    """
    from infra.cluster.connect import connected
    from infra.cluster.nodes import check_resources
    from infra.registry import tracking
    from infra.registry.training_lease import training_lease

    check_gpus(config, name, here=settings.ray_address is None)
    client = tracking.connect(settings)
    planned = plan_training(config, settings, name=name)
    config, num_workers = planned.config, num_workers or config.num_workers
    share_of_step(config.optim, config.num_workers, num_workers)  # refuses what cannot be shared
    with training_lease(client, planned.digest, log=print_line) as is_lost:
        before = tracking.find_run(client, planned.digest)
        is_finished = before is not None and before.info.status == "FINISHED"
        if is_finished and not again:
            return _reuse(client, before, planned)
        with connected(settings):
            # Before a run is opened: what the cluster can never hold leaves no failed one.
            for resource, count in config.resources_per_worker.items():
                check_resources(int(num_workers * count), resource)
            resumed = before is not None and not is_finished
            with _run_of(client, planned, is_lost, resumed=resumed) as run_id:
                tags = _train_on_ray(client, run_id, planned, settings, num_workers)
        tracking.finish_run(client, run_id, tags=tags)
    return Trained(run_id=run_id, model=tags.get(REGISTERED), dataset=planned.version.name)


def _reuse(client: Any, run: Any, planned: Planned) -> Trained:
    """A finished run's results; registers its model where the recipe names another, or none was."""
    from infra.registry import tracking

    run_id, now = str(run.info.run_id), planned.tags
    print_line(f"  this configuration is trained already: run {run_id}")
    if run.data.tags.get(tracking.CODE_TAG) != now[tracking.CODE_TAG]:
        then = run.data.tags.get(tracking.COMMIT_TAG, "unknown")
        print_line(f"  the code has changed since: then {then}, now {now[tracking.COMMIT_TAG]};")
        print_line("  --again trains it anew")
    model = register_once(client, run_id, planned)
    if model and model != run.data.tags.get(REGISTERED):
        client.set_tag(run_id, REGISTERED, model)
    return Trained(run_id=run_id, model=model, dataset=planned.version.name)


def _train_on_ray(
    client: Any, run_id: str, planned: Planned, settings: Settings, num_workers: int
) -> dict[str, str]:
    """Train to the end, or from the last checkpoint to it; log the results, return the run's last tags."""
    from infra.cluster.ddp import run_ddp
    from infra.cluster.run_folder import fetched_checkpoint
    from infra.registry import tracking
    from infra.registry.report_log import ReportLogger

    # Now that `jobs.generate retire` finds the run: was it quicker?
    find_version(planned.datasets, planned.version.name)
    log_lineage(client, run_id, planned, settings)
    # Ray Train resumes by name: the same run, and no other.
    folder_name = f"{planned.name}-{planned.digest[:12]}-{run_id[:8]}"
    kept = open_folder(f"{settings.runs}/{folder_name}", settings)
    loop = partial(run_training, training_task(planned, settings))
    with (
        tracking.system_metrics(client, run_id),
        watch(client, run_id, planned.config.optim.num_steps),
    ):
        checkpoint = run_ddp(
            loop,
            name=folder_name,
            settings=settings,
            num_workers=num_workers,
            resources=planned.config.resources_per_worker,
            on_report=ReportLogger(settings.tracking_uri, run_id, kept),
        )
    with fetched_checkpoint(checkpoint) as folder:
        return log_results(client, run_id, planned, folder, settings)


@contextmanager
def _run_of(
    client: Any, planned: Planned, is_lost: Callable[[], bool], *, resumed: bool
) -> Iterator[str]:
    """Open the training's run; mark it as failed when the block raises.

    When the lease is lost, it is another driver's and stays as it is. Raises ConnectionError, with
    what to do, when MLflow was the cause.
    """
    from infra.registry import tracking

    run_id = open_training_run(client, planned)
    shown = f"{run_id} (resumed)" if resumed else run_id
    print_facts({"run": shown, "dataset": planned.version.name})
    try:
        yield run_id
    except BaseException as error:
        if is_lost():
            raise
        tracking.fail_run(client, run_id, error)
        if isinstance(error, tracking.NO_ANSWER):
            raise ConnectionError(
                f"{error}; the checkpoint is kept: run the same command again when MLflow answers"
            ) from error
        raise
