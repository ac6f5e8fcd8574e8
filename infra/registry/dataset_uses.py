"""Which runs and registered versions were made from a dataset version: by the tag `dataset_version`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

_TAG = "dataset_version"


@dataclass(frozen=True)
class DatasetUse:
    """Something that a dataset version was used for; `needs` it when it is not over."""

    dataset: str
    user: str
    needs: bool


def find_dataset_uses(client: MlflowClient) -> list[DatasetUse]:
    """All runs (deleted ones are none) and registered versions that name their dataset.

    A run that did not finish needs it, because it can be resumed; a registered version needs it, because
    it can be traced and trained again.
    """
    # All: one may be named for each project (MLFLOW_EXPERIMENT_NAME), and datasets are everyone's.
    experiments = [
        experiment.experiment_id
        for experiment in _pages(lambda token: client.search_experiments(page_token=token))
    ]
    has_tag = f"tags.{_TAG} LIKE '%'"
    uses = []
    for run in _pages(lambda token: client.search_runs(experiments, has_tag, page_token=token)):
        status = run.info.status
        user = f"run {run.info.run_id} ({status.lower()})"
        uses.append(DatasetUse(run.data.tags[_TAG], user, needs=status != "FINISHED"))
    for version in _pages(lambda token: client.search_model_versions(page_token=token)):
        if _TAG in version.tags:
            user = f"models:/{version.name}/{version.version}"
            uses.append(DatasetUse(version.tags[_TAG], user, needs=True))
    return uses


def _pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return
