"""Pictures of a training: previews on fixed pairs, and a map of the system's probe."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from infra.settings import Settings
from jobs.console import print_line
from jobs.locations import open_datasets, source_reader
from jobs.train.inputs import Planned
from models import system_of
from models.system import Probe
from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.datasets.versions import DatasetVersion
from pipelines.probes.known_pictures import degraded_pictures, single_scenarios, stored_pictures
from pipelines.probes.latents import Embedded, embed, in_words, map_points, tell_apart
from pipelines.probes.prompts import heeded, heeded_in_words
from pipelines.reports.evaluation_charts import map_of_points
from pipelines.reports.page import write_page
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import write_whole
from pipelines.training.previews import PreviewPair, pairs_of_scenes, pairs_of_shards

MAP = "probe.html"
# Enough to see groups, few enough to read and to be embedded in seconds.
_MAPPED_SCENES = 16


def preview_pairs(planned: Planned, settings: Settings) -> list[PreviewPair]:
    """Pairs to preview: of unseen scenes of the same index, else of the dataset's own."""
    version, unseen = planned.version, planned.sources.unseen
    if unseen is not None:
        try:
            return pairs_of_scenes(unseen, version.config.shard, read=source_reader(settings))
        except (ValueError, OSError) as error:  # a training reads shards; it can do without sources
            print_line(f"  previews show scenes that are trained on: {error}")
    return pairs_of_shards(version, planned.datasets)


def write_preview(folder: Path, preview: str, step: int) -> None:
    """Write a preview, as the loop reports it, beside the checkpoints of a training in this process."""
    write_whole(folder / "previews" / f"step-{step:08d}.png", base64.b64decode(preview))


def write_map(
    path: Path,
    checkpoint: Path,
    version: DatasetVersion,
    unseen: SceneTable | None,
    settings: Settings,
) -> dict[str, float]:
    """Write the map of the probe's vectors; return how well they separate the degradations.

    Of unseen scenes of the same index, else of the dataset's own; then the result is empty, because
    separating what was trained on means little. It is empty for a model without a probe, too.
    """
    config, fuser = fuser_of_checkpoint(checkpoint)
    probe = system_of(config).probe
    if probe is None:
        return {}
    on_unseen = unseen and _embed_unseen(probe, fuser, version, unseen, settings)
    stored = stored_pictures(version, open_datasets(settings))
    embedded = on_unseen or embed(probe, fuser, stored)
    if embedded is None:
        return {}
    found = tell_apart(on_unseen) if on_unseen and len(set(on_unseen.scenes)) > 1 else {}
    prompted = system_of(config).prompted
    if found and prompted and unseen:
        shard, read = version.config.shard, source_reader(settings)
        found |= heeded(prompted, fuser, unseen[:_MAPPED_SCENES], shard, read=read)
    facts = {
        "scenes": f"{len(set(embedded.scenes))}, {'unseen' if on_unseen else 'trained on'}",
        "conditions": str(embedded.num_conditions),
        **in_words(found),
        **heeded_in_words(found),
    }
    write_page(
        path,
        "probe.html.j2",
        title=f"{probe.title.capitalize()}, {version.name}",
        facts=facts,
        map=map_of_points(map_points(embedded, seed=0)),
    )
    return found


def _embed_unseen(
    probe: Probe, fuser: Any, version: DatasetVersion, unseen: SceneTable, settings: Settings
) -> Embedded | None:
    shard, read = version.config.shard, source_reader(settings)
    scenes = unseen[:_MAPPED_SCENES]
    try:
        pictures = degraded_pictures(scenes, single_scenarios(shard), seed=shard.seed, read=read)
        return embed(probe, fuser, pictures)
    except (ValueError, OSError) as error:  # as above: what was trained must not be lost for a map
        print_line(f"  the map of the probe shows scenes that were trained on: {error}")
        return None
