"""Pictures to probe a model with: each suffers one known thing.

Legend: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from degradations.catalogue import Modality
from degradations.own import parts_of
from pipelines.datasets.groups import members_of
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.scenarios.degraded_pairs import degrade
from pipelines.scenarios.table import CLEAN_SCENARIO, Scenario
from pipelines.sources.scenes import Read, Scene, load_pair, read_file
from pipelines.store.folders import Folder

_SCENES_OF_A_SHARD = 8


@dataclass(frozen=True)
class Picture:
    """What one camera saw, uint8 H×W×C; `condition` is the camera and what it suffers."""

    scene: str
    camera: Modality
    condition: str
    image: np.ndarray


def single_scenarios(config: ShardConfig) -> list[Scenario]:
    """Clean, and every degradation of a dataset by itself."""
    known = config.model_dump(include={"vi_ranges", "ir_ranges"}) | {"own": config.own}
    vi = [Scenario(name=f"vi_{name}", vi=parts_of(name), **known) for name in config.vi]
    ir = [Scenario(name=f"ir_{name}", ir=parts_of(name), **known) for name in config.ir]
    return [CLEAN_SCENARIO, *vi, *ir]


def degraded_pictures(
    scenes: Iterable[Scene], scenarios: Sequence[Scenario], *, seed: int, read: Read = read_file
) -> Iterator[Picture]:
    """Degrade each scene in every scenario; a camera that a scenario leaves clean counts once."""
    for scene in scenes:
        vi, ir = load_pair(scene, read)
        for scenario in scenarios:
            pair = degrade(vi, ir, scenario, seed=seed, scene_key=scene.digest)
            seen: tuple[tuple[Modality, tuple[str, ...], np.ndarray], ...] = (
                ("ir", scenario.ir, pair.ir),
                ("vi", scenario.vi, pair.vi),
            )
            for camera, names, image in seen:
                if names or not (scenario.vi or scenario.ir):
                    condition = f"{camera}_{'+'.join(names) or 'clean'}"
                    yield Picture(scene.id, camera, condition, image)


def stored_pictures(version: DatasetVersion, root: Folder) -> Iterator[Picture]:
    """All variants of a few scenes of a dataset's first shard."""
    with closing(open_shard(root, version.shards[0])) as reader:
        for scene in sorted(reader.metas)[:_SCENES_OF_A_SHARD]:
            for member in members_of(version.config.shard):
                camera: Modality = "vi" if member.startswith("vi") else "ir"
                yield Picture(scene, camera, member, reader.image(scene, member))
