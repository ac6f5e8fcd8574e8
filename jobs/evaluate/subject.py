"""What `jobs.evaluate` measures: its subject, and the parts that one Ray task measures each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.settings import REPOSITORY, Settings
from jobs.config import EvaluateRecipe
from jobs.console import print_line
from jobs.placement import Placement, Workers, workers
from models.metrics import EVALUATED, MIN_SIDE_PX
from pipelines.bundles.export import read_bundle
from pipelines.evaluation.baselines import BASELINES
from pipelines.evaluation.measuring import Measurement, check_pictures, metrics_for
from pipelines.evaluation.rows import MODEL, Row, read_rows, write_rows
from pipelines.evaluation.scenarios import find_scenario
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file
from pipelines.store.seeding import digest_of

ROWS = "rows.parquet"
_SCENES_A_TASK = 2
# What makes the numbers, and of it what is not the model: rows are compared where that is the same.
_MEASURING = ("models", "degradations", "pipelines")
_PROTOCOL = ("degradations", "models/metrics", "pipelines/evaluation", "pipelines/sources")
PARTS = "parts"


@dataclass(frozen=True)
class Subject:
    """What is measured on what: everything that decides the numbers."""

    recipe: EvaluateRecipe
    model: str
    bundle: Path
    where: str
    split: str
    scenes: tuple[Scene, ...]
    folders: Mapping[str, Path]

    @cached_property
    def measurement(self) -> Measurement:
        """What the workers are given."""
        return Measurement(
            bundle=read_bundle(self.bundle),
            scenarios=tuple(find_scenario(name) for name in self.recipe.scenarios),
            protocol=digest_of([self.recipe.seed, _code_of(_PROTOCOL)])[:16],
            baselines=self.recipe.baselines,
            folders=dict(self.folders),
            metrics=metrics_for(self.scenes),
            seed=self.recipe.seed,
        )

    @property
    def hint_names(self) -> tuple[str, ...]:
        """Names of the hints that the model takes."""
        return self.measurement.bundle.system.hint_names

    @cached_property
    def tags(self) -> dict[str, str]:
        """Digests of model and scenes, and one of the whole."""
        weights = sha256_of_file(self.bundle / "model.safetensors")
        scenes = digest_of([scene.digest for scene in self.scenes])
        pictures = {
            name: [sha256_of_file(path) for path in sorted(folder.iterdir()) if path.is_file()]
            for name, folder in self.folders.items()
        }
        how = [self.recipe.model_dump(mode="json"), inputs_digest(self.measurement)]
        whole = [*how, weights, scenes, pictures]
        return {
            "model": self.model,
            "model_sha256": weights,
            "scenes": self.where,
            "split": self.split,
            "scenes_digest": scenes,
            "config_digest": digest_of(whole),
        }


@dataclass(frozen=True)
class Evaluation:
    """A subject that is measured into a folder, and where that is computed."""

    subject: Subject
    folder: Path
    settings: Settings
    placement: Placement
    local: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether the rows of all parts have been joined."""
        return (self.folder / ROWS).is_file()

    @property
    def own_device(self) -> str:
        """The device of this process, for what no worker does: GPUs may be those of other nodes."""
        return "cpu" if self.placement.device == "cpu" else "auto"

    def workers(self) -> AbstractContextManager[Workers]:
        """Ray's workers, or this process."""
        return workers(self.placement, self.settings, local=self.local)


def check_subject(subject: Subject) -> None:
    """Raise ValueError for a row that cannot be measured; print the metrics that need larger pictures."""
    measurement = subject.measurement
    system = measurement.bundle.system
    for scenario in measurement.scenarios:
        if system.only_linear and not scenario.is_linear:
            raise ValueError(
                f"scenario {scenario.name!r}: {system.name} inverts linear degradations only; leave "
                "it out with --set scenarios=[…]"
            )
    for name, folder in subject.folders.items():
        if name in (MODEL, *BASELINES) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"--method {name}: taken, or not of letters, digits, . _ -; choose another name"
            )
        if "clean" not in subject.recipe.scenarios:
            raise ValueError(
                f"--method {name}: its pictures show the clean pairs, and the recipe lacks 'clean'"
            )
        check_pictures(name, folder, subject.scenes)
    for name in EVALUATED:
        if name not in metrics_for(subject.scenes):
            print_line(
                f"  {name} is left out: it needs {MIN_SIDE_PX[name]} px a side of every scene"
            )


@dataclass(frozen=True)
class Parts:
    """An evaluation in parts of a few scenes; every finished part leaves its rows as a file in `folder`."""

    subject: Subject
    folder: Path

    @cached_property
    def _inputs(self) -> str:
        return inputs_digest(self.subject.measurement)

    def _path(self, scene_ids: Iterable[str]) -> Path:
        part = digest_of(sorted(scene_ids))
        return self.folder / f"{self._inputs[:16]}-{part[:16]}.parquet"

    @property
    def paths(self) -> dict[Path, tuple[Scene, ...]]:
        """The scenes of each part, by the file of its rows."""
        # A few a task: long enough to load the bundle once for them, short enough to share.
        scenes, starts = self.subject.scenes, range(0, len(self.subject.scenes), _SCENES_A_TASK)
        parts = [scenes[start : start + _SCENES_A_TASK] for start in starts]
        return {self._path(scene.id for scene in part): part for part in parts}

    def left(self) -> list[tuple[Scene, ...]]:
        """The parts to measure."""
        left = [part for path, part in self.paths.items() if not path.is_file()]
        done = len(self.paths) - len(left)
        if done:
            print_line(f"  {done} of {len(self.paths)} parts were measured before")
        return left

    def keep(self, rows: Sequence[Row]) -> int:
        """Write the rows of a part; return how many scenes it has."""
        scene_ids = {row["scene"] for row in rows}
        write_rows(rows, self._path(scene_ids))
        return len(scene_ids)

    def rows(self) -> list[Row]:
        """The rows of all parts, in order; the report takes the first method for the model."""
        methods = (MODEL, *self.subject.recipe.baselines, *self.subject.folders)
        return sorted(
            (row for path in self.paths for row in read_rows(path)),
            key=lambda row: (row["scenario"], row["scene"], methods.index(row["method"])),
        )


def inputs_digest(measurement: Measurement) -> str:
    """Digest of the definitions and the code that decide a part's rows.

    A scenario or a baseline may change under its name, and rows from before and after must not meet
    in one table. Any changed file of ours counts; measuring again is cheap.
    """
    settings = measurement.model_dump(mode="json", exclude={"bundle", "folders"})
    return digest_of([settings, _code_of(_MEASURING)])


def _code_of(packages: Iterable[str]) -> dict[str, str]:
    files = sorted(path for name in packages for path in (REPOSITORY / name).rglob("*.py"))
    return {str(path.relative_to(REPOSITORY)): sha256_of_file(path) for path in files}
