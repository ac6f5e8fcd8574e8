"""Single pictures restored under prompts: `jobs.evaluate restoration`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra.settings import Settings
from jobs.console import print_line, progress
from jobs.evaluate.scenes import SceneChoice
from jobs.fuse.run import bundle_of
from jobs.locations import source_reader
from models import system_of
from models.system import Prompted
from pipelines.bundles.export import fuser_of_checkpoint, read_bundle
from pipelines.datasets.plan import ShardConfig
from pipelines.probes.prompts import (
    TRIED,
    WINDOW_PX,
    Single,
    is_large_enough,
    latent_gaps,
    means_by_kind,
    restore_single,
    single_pictures,
)
from pipelines.store.files import write_whole

Kinds = Mapping[tuple[str, str], Mapping[str, float]]


def measure_restoration(
    model: str,
    settings: Settings,
    out: Path,
    scenes: SceneChoice,
    *,
    shard: ShardConfig,
    num_scenes: int | None = None,
) -> Kinds:
    """Measure a model on the single pictures of a split; write a row a kind of picture to `out`, CSV.

    `model` is a bundle's folder, a registered version, or a checkpoint's folder. Raises ValueError for a
    system that takes no prompts, or a split without pictures that are large enough.
    """
    config, fuser = _fuser(model, settings)
    prompted = system_of(config).prompted
    if prompted is None:
        raise ValueError(
            f"{model}: {system_of(config).name} takes no prompts; see jobs.evaluate MODEL"
        )
    chosen = scenes.load(settings, num_scenes)
    large = [scene for scene in chosen if is_large_enough(scene)]
    if not large:
        raise ValueError(f"{scenes.options}: of {len(chosen)} scenes none is of {WINDOW_PX} px")
    if len(large) < len(chosen):
        print_line(f"  {len(chosen) - len(large)} scenes are smaller than {WINDOW_PX} px, left out")
    singles = list(single_pictures(large, shard, seed=shard.seed, read=source_reader(settings)))
    kinds = _measured(prompted, fuser, singles, shard)
    write_whole(out, _csv(kinds))
    for line in _table(kinds):
        print_line(line)
    return kinds


def _measured(
    prompted: Prompted, fuser: Any, singles: Sequence[Single], shard: ShardConfig
) -> Kinds:
    restored = []
    with progress("pictures", len(singles)) as advance:
        for done, single in enumerate(singles, start=1):
            trained = shard.names(single.camera)
            restored.append(restore_single(prompted, fuser, single, trained))
            advance(done, f"{single.scene}, {single.suffers}")
    gaps = latent_gaps(prompted, fuser, singles)
    return {
        kind: dict(means) | ({"latent_gap": gaps[kind]} if kind in gaps else {})
        for kind, means in means_by_kind(restored).items()
    }


def _fuser(model: str, settings: Settings) -> tuple[BaseModel, Any]:
    if (Path(model) / "state.json").exists():
        return fuser_of_checkpoint(Path(model))
    bundle = read_bundle(bundle_of(model, settings))
    return bundle.model, bundle.fuser()


def _csv(kinds: Kinds) -> bytes:
    text = io.StringIO()
    columns = dict.fromkeys(name for means in kinds.values() for name in means)
    table = csv.DictWriter(text, ["camera", "suffers", *columns])
    table.writeheader()
    for (camera, suffers), means in kinds.items():
        table.writerow({"camera": camera, "suffers": suffers, **means})
    return text.getvalue().encode()


def _table(kinds: Kinds) -> Iterator[str]:
    """Lines in Markdown: PSNR of each try, SSIM before and after, and what the prompt is worth."""
    tries = [f"PSNR_{name}" for name in TRIED]
    names = [*tries, "SSIM_input", "SSIM_own", "found", "latent_gap"]
    yield "| camera | suffers | pictures | " + " | ".join(names) + " |"
    yield "|---" * (3 + len(names)) + "|"
    for (camera, suffers), means in kinds.items():
        cells = [_cell(name, means.get(name)) for name in names]
        yield f"| {camera} | {suffers} | {means['pictures']:.0f} | " + " | ".join(cells) + " |"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.{1 if name.startswith('PSNR') else 2}f}"
