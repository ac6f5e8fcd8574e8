"""What `jobs.evaluate` measures, and how: parts of the scenes as Ray tasks, each kept when done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.settings import REPOSITORY, Settings
from jobs.config import EvaluateRecipe
from jobs.console import print_line, progress
from jobs.locations import source_reader
from models.metrics import EVALUATED, METRIC_VERSION, MIN_SIDE_PX
from pipelines.bundles.export import read_bundle
from pipelines.evaluation.baselines import BASELINES
from pipelines.evaluation.measuring import Measurement, check_folder, evaluate_bundle, metrics_for
from pipelines.evaluation.rows import MODEL, Row, read_rows, write_rows
from pipelines.evaluation.scenarios import find_scenario
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file
from pipelines.store.seeding import digest_of

ROWS = "rows.parquet"
_SCENES_A_TASK = 2
# The packages that make the numbers.
_MEASURING = ("models", "degradations", "pipelines")
PARTS = "parts"


@dataclass(frozen=True)
class Subject:
    """What is measured on what: everything that decides the numbers."""

    recipe: EvaluateRecipe
    model: str
    bundle: Path
    where: str
    scenes: tuple[Scene, ...]
    folders: Mapping[str, Path]

    @property
    def measurement(self) -> Measurement:
        """What the workers are told."""
        return Measurement(
            bundle=read_bundle(self.bundle),
            scenarios=tuple(find_scenario(name) for name in self.recipe.scenarios),
            baselines=self.recipe.baselines,
            folders=dict(self.folders),
            metrics=metrics_for(self.scenes),
            seed=self.recipe.seed,
        )

    @property
    def tags(self) -> dict[str, str]:
        """Digests of model and scenes, and one of the whole."""
        weights = sha256_of_file(self.bundle / "model.safetensors")
        scenes = digest_of([scene.digest for scene in self.scenes])
        pictures = {
            name: [sha256_of_file(path) for path in sorted(folder.iterdir()) if path.is_file()]
            for name, folder in self.folders.items()
        }
        measured = [METRIC_VERSION, *metrics_for(self.scenes)]
        whole = [self.recipe.model_dump(mode="json"), weights, scenes, measured, pictures]
        return {
            "model": self.model,
            "model_sha256": weights,
            "scenes": self.where,
            "scenes_digest": scenes,
            "config_digest": digest_of(whole),
        }


def check_subject(subject: Subject) -> None:
    """Raise ValueError for a row that cannot be; say which metrics the pictures are too small for."""
    for name, folder in subject.folders.items():
        if name in (MODEL, *BASELINES) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"--method {name}: taken, or not of letters, digits, . _ -; choose another name"
            )
        if "clean" not in subject.recipe.scenarios:
            raise ValueError(
                f"--method {name}: its pictures show the clean pairs, and the recipe lacks 'clean'"
            )
        check_folder(name, folder, subject.scenes)
    for name in EVALUATED:
        if name not in metrics_for(subject.scenes):
            print_line(
                f"  {name} is left out: it needs {MIN_SIDE_PX[name]} px a side of every scene"
            )


def measure_scenes(subject: Subject, settings: Settings, folder: Path) -> list[Row]:
    """Rows of all scenes under all scenarios, measured as Ray tasks.

    Every finished task leaves its rows in `folder`; those that lie there are not measured again.
    """
    from infra.cluster import cluster

    inputs = inputs_digest(subject.measurement)
    starts = range(0, len(subject.scenes), _SCENES_A_TASK)
    # A few scenes a task: long enough to load the bundle once for them, short enough to share.
    parts = [subject.scenes[start : start + _SCENES_A_TASK] for start in starts]

    def part_path(part: Sequence[Scene]) -> Path:
        return (
            folder / f"{inputs[:16]}-{digest_of(sorted(scene.id for scene in part))[:16]}.parquet"
        )

    done = [part for part in parts if part_path(part).is_file()]
    rows = [row for part in done for row in read_rows(part_path(part))]
    left = [part for part in parts if part not in done]
    by_id = {scene.id: scene for scene in subject.scenes}
    if done:
        print_line(f"  {len(done)} of {len(parts)} parts were measured before")
    with (
        cluster.connected(settings),
        progress("scenes", len(subject.scenes)) as advance,
    ):
        arguments = (subject.measurement, source_reader(settings))
        for found in cluster.map_tasks(evaluate_bundle, left, *arguments):
            ids = sorted({row["scene"] for row in found})
            write_rows(found, part_path([by_id[name] for name in ids]))
            rows += found
            advance(len({row["scene"] for row in rows}))
    # The report takes the first method for the model.
    methods = (MODEL, *subject.recipe.baselines, *subject.folders)
    return sorted(
        rows, key=lambda row: (row["scenario"], row["scene"], methods.index(row["method"]))
    )


def inputs_digest(measurement: Measurement) -> str:
    """Digest of what decides a part's rows and is not in the evaluation's: definitions, and code.

    A scenario's name may come to mean other strengths, a baseline be mended: rows from before and
    after must not meet in one table. Any changed file of ours counts; measuring again is cheap.
    """
    told = measurement.model_dump(mode="json", exclude={"bundle", "folders"})
    files = sorted(path for name in _MEASURING for path in (REPOSITORY / name).rglob("*.py"))
    code = {str(path.relative_to(REPOSITORY)): sha256_of_file(path) for path in files}
    return digest_of([told, code])
