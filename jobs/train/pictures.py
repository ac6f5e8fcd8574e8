"""What a training shows in pictures: previews on fixed pairs, and a map of the degradation priors."""

from __future__ import annotations

import base64
from pathlib import Path

from infra.settings import Settings
from jobs.console import print_line
from jobs.locations import open_datasets, source_reader
from models.dspfusion.fuser import DSPFusionFuser
from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.datasets.versions import DatasetVersion
from pipelines.evaluation.embedding import (
    Embedded,
    degraded_pictures,
    embed,
    in_words,
    map_points,
    single_scenarios,
    stored_pictures,
    tell_apart,
)
from pipelines.reports.evaluation_charts import points_part
from pipelines.reports.page import facts_part, render_page
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import write_whole
from pipelines.training.previews import Pair, pairs_of_scenes, pairs_of_shards

MAP = "degradation_priors.html"
# Enough to see groups, few enough to read and to be embedded in seconds.
_MAPPED_SCENES = 16


def preview_pairs(
    version: DatasetVersion, unseen: SceneTable | None, settings: Settings
) -> list[Pair]:
    """Pairs to preview: of unseen scenes of the same index, else of the dataset's own."""
    if unseen is not None:
        try:
            return pairs_of_scenes(unseen, version.config.shard, read=source_reader(settings))
        except (ValueError, OSError) as error:  # a training reads shards; it can do without sources
            print_line(f"  previews show scenes that are trained on: {error}")
    return pairs_of_shards(version, open_datasets(settings))


def write_preview(folder: Path, preview: str, step: int) -> None:
    """Write a preview, as the loop reports it, where a training in this process keeps its own."""
    write_whole(folder / "previews" / f"step-{step:08d}.png", base64.b64decode(preview))


def write_map(
    path: Path,
    checkpoint: Path,
    version: DatasetVersion,
    unseen: SceneTable | None,
    settings: Settings,
) -> dict[str, float]:
    """Write the map of a checkpoint's degradation priors; return how well they are told apart.

    Of unseen scenes of the same index, else of the dataset's own; then nothing is returned, because
    telling apart what was trained on says little. Neither is there without degradation prior.
    """
    config, fuser = fuser_of_checkpoint(checkpoint)
    if not config.degradation_prior:
        return {}
    embedded = _embed_unseen(fuser, version, unseen, settings) if unseen is not None else None
    found = tell_apart(embedded) if embedded and len(set(embedded.scenes)) > 1 else {}
    seen = "unseen" if embedded else "trained on"
    embedded = embedded or embed(fuser, stored_pictures(version, open_datasets(settings)))
    facts = {
        "scenes": f"{len(set(embedded.scenes))}, {seen}",
        "conditions": str(embedded.num_conditions),
        **in_words(found),
    }
    parts = [facts_part(facts), points_part(map_points(embedded, seed=0))]
    write_whole(path, render_page(f"Degradation priors, {version.name}", parts).encode())
    return found


def _embed_unseen(
    fuser: DSPFusionFuser, version: DatasetVersion, unseen: SceneTable, settings: Settings
) -> Embedded | None:
    shard, read = version.config.shard, source_reader(settings)
    scenes = unseen[:_MAPPED_SCENES]
    try:
        pictures = degraded_pictures(scenes, single_scenarios(shard), seed=shard.seed, read=read)
        return embed(fuser, pictures)
    except (ValueError, OSError) as error:  # as above: what was trained must not be lost for a map
        print_line(f"  the map of degradation priors shows scenes that were trained on: {error}")
        return None
