"""A training on the cluster, tracked in MLflow: resumed, or reused when it is finished."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import Settings
from jobs.console import print_facts, print_line
from jobs.locations import open_folder
from jobs.train.inputs import Planned, find_sources, plan_training
from jobs.train.pictures import preview_pairs
from jobs.train.records import log_lineage, log_results, open_run, watch
from pipelines.training.config import TrainingConfig, share_of_step
from pipelines.training.loop import run_training


class Trained(BaseModel):
    """A finished run, and the version it registered, if its recipe says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    model: str | None


def train(
    config: TrainingConfig, settings: Settings, *, name: str, num_workers: int | None = None
) -> Trained:
    """Train the recipe called `name` to its end, or find that it was. Raises ValueError on mistakes.

    On `num_workers` instead of the recipe's the steps stay the same, so it is the same run.
    """
    from infra.registry import tracking
    from infra.registry.training_lease import training_lease

    client = tracking.connect(settings)
    planned = plan_training(config, settings, name=name)
    num_workers = num_workers or config.num_workers
    share_of_step(config.optim, config.num_workers, num_workers)  # refuses what cannot be shared
    with training_lease(client, planned.digest, log=print_line) as is_lost:
        before = tracking.find_run(client, planned.digest)
        if before and before.info.status == "FINISHED":
            run_id, made = before.info.run_id, before.data.tags
            print_line(f"  this configuration is trained already: run {run_id}")
            return Trained(run_id=run_id, model=made.get("registered_model"))
        run_id = open_run(client, planned)
        print_facts(
            {"run": run_id + (" (resumed)" if before else ""), "dataset": planned.version.name}
        )
        try:
            made = _train_run(client, run_id, planned, settings, num_workers=num_workers)
        except BaseException as error:
            if not is_lost():  # else the run is another driver's now
                _end_failed(client, run_id, error)
            raise
        tracking.finish_run(client, run_id, tags=made)
    return Trained(run_id=run_id, model=made.get("registered_model"))


def _train_run(
    client: Any, run_id: str, planned: Planned, settings: Settings, *, num_workers: int
) -> dict[str, str]:
    """Train on the cluster and log what came of it; return the run's last tags."""
    from infra.cluster.connect import connected
    from infra.cluster.ddp import run_ddp
    from infra.cluster.run_folder import fetched
    from infra.registry import tracking
    from infra.registry.report_log import ReportLogger

    config, sources = planned.config, find_sources(planned.version, settings)
    log_lineage(client, run_id, planned, sources, settings)
    pairs = preview_pairs(planned.version, sources.unseen, settings) if config.preview_every else []
    # Ray Train resumes by name: the same run, and no other.
    folder_name = f"{planned.name}-{planned.digest[:12]}-{run_id[:8]}"
    kept = open_folder(f"{settings.runs}/{folder_name}", settings)
    # Initial weights go by value: no worker needs to see the folder that they lie in here.
    loop = partial(
        run_training,
        config.model_dump(mode="json"),
        datasets=planned.datasets,
        initial=planned.initial,
        pairs=pairs,
    )
    with (
        connected(settings),
        tracking.system_metrics(client, run_id),
        watch(client, run_id, config.optim.num_steps),
    ):
        checkpoint = run_ddp(
            loop,
            name=folder_name,
            settings=settings,
            num_workers=num_workers,
            use_gpu=config.use_gpu,
            on_report=ReportLogger(settings.tracking_uri, run_id, kept),
        )
    with fetched(checkpoint) as folder:
        return log_results(client, run_id, planned, folder, sources, settings)


def _end_failed(client: Any, run_id: str, error: BaseException) -> None:
    """Mark the run, and say what a person can do. Raises ConnectionError when MLflow was the cause."""
    from infra.registry import tracking

    tracking.fail_run(client, run_id, error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        print_line("interrupted; the same command resumes from the last checkpoint")
    if isinstance(error, tracking.NO_ANSWER):
        raise ConnectionError(
            f"{error}; the checkpoint is kept: run the same command again when MLflow answers"
        ) from error
