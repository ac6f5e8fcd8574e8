"""What the registry and the runs hold of a version: evaluation, trained scenes, former champions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.settings import Settings
from jobs.locations import cached_folder
from pipelines.bundles.pretrained import pretrained_folders
from pipelines.promotion.evidence import EVALUATION
from pipelines.promotion.history import champions, read_history
from pipelines.promotion.lineage import FOLDER, SCENES
from pipelines.sources.index import read_index
from pipelines.sources.scenes import Scene


def fetch_evaluation(version: Any, settings: Settings) -> Path:
    """The folder of the evaluation that a version is judged by. Raises ValueError when it is gone."""
    from infra.registry import tracking

    run_id = version.tags[EVALUATION]
    return tracking.fetch_folder(run_id, "evaluation", cached_folder(run_id, settings))


def trained_scenes(client: Any, version: Any, settings: Settings) -> list[Scene] | None:
    """The scenes of a version's training and of all that it started from; None where some are unknown."""
    from infra.registry import tracking

    scenes: list[Scene] = []
    run_id = version.tags.get("run_id")
    while run_id:
        tags = tracking.run_tags_of(client, run_id)
        try:
            folder = tracking.fetch_folder(run_id, FOLDER, cached_folder(run_id, settings))
            scenes += read_index(folder / SCENES).scenes
        except ValueError:
            return None
        source = (tags or {}).get("init_from", "")
        if given := pretrained_folders().get(source):
            return scenes + list(read_index(given / SCENES).scenes)
        if source and not source.startswith("runs:/"):
            return None  # a folder of weights, of no run
        run_id = source.removeprefix("runs:/")
    return scenes


def former_champions(client: Any, champion: Any) -> list[Any]:
    """The versions that were champion before, without those that were rolled back or are deleted."""
    from infra.registry import model_versions as registry

    name, number = champion.name, str(champion.version)
    events = read_history(name, registry.read_events(client, name))
    numbers = dict.fromkeys(champions([*events.values()]))
    found = []
    for each in numbers:
        if each != number:
            try:
                found.append(registry.find_model(client, f"models:/{name}/{each}"))
            except ValueError:
                continue
    return found
