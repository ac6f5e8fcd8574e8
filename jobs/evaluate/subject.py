"""What `jobs.evaluate` measures: its subject, and the rows of each scene under each scenario."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from infra.learned_scores import load_scores
from infra.settings import REPOSITORY, Settings
from jobs.console import print_line
from jobs.evaluate.extras import extras_of
from jobs.evaluate.scenes import SceneChoice
from jobs.locations import source_reader
from jobs.placement import ANYWHERE, Placement, Workers, workers
from jobs.recipes.kinds import EvaluateRecipe
from models.metrics import EVALUATED, MIN_SIDE_PX
from pipelines.bundles.export import read_bundle
from pipelines.evaluation.baselines import BASELINES
from pipelines.evaluation.given_pictures import Given, Kind, find_given
from pipelines.evaluation.measuring import CaseMeasurer, Measurement, metrics_for
from pipelines.results.rows import MODEL, Row, read_rows, write_rows
from pipelines.scenarios.degraded_pairs import Case, cases_of
from pipelines.scenarios.table import Scenario, find_scenario
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file
from pipelines.store.seeding import digest_of

ROWS = "rows.parquet"
# What makes the numbers, and of it what is not the model: rows are compared where that is the same.
_MEASURING = ("models", "degradations", "pipelines")
PROTOCOL = (
    "degradations",
    "models/metrics",
    "pipelines/checks",
    "pipelines/detection",
    "pipelines/evaluation",
    "pipelines/results",
    "pipelines/scenarios",
    "pipelines/sources",
    "pipelines/store",
)
PARTS = "parts"


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and where: a model on scenes, beside other programs' pictures.

    `folders` has other methods' fused pictures, `restored` restored sources, by the name they are given. A
    local placement is for a bundle's folder, without Ray, MLflow and a run. `options` are those of the
    command besides model and scenes.
    """

    model: str
    scenes: SceneChoice
    folders: Mapping[str, Path] = field(default_factory=dict)
    restored: Mapping[str, Path] = field(default_factory=dict)
    placement: Placement = ANYWHERE
    options: str = ""

    @property
    def command(self) -> str:
        """The command that does the same."""
        words = f"{shlex.quote(self.model)} {self.scenes.options} {self.options}"
        return f"python -m jobs.evaluate {words}".rstrip()


@dataclass(frozen=True)
class Subject:
    """What is measured on what: everything that decides the numbers, as it was found."""

    recipe: EvaluateRecipe
    asked: Asked
    bundle: Path
    scenes: tuple[Scene, ...]

    @property
    def where(self) -> str:
        """What the scenes are called."""
        return self.asked.scenes.name

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The recipe's scenarios."""
        return tuple(find_scenario(name) for name in self.recipe.scenarios)

    @cached_property
    def cases(self) -> list[Case]:
        """The scenes under the scenarios that they can be put under."""
        return cases_of(self.scenes, self.scenarios)

    @cached_property
    def given(self) -> tuple[Given, ...]:
        """Other programs' pictures of all cases. Raises ValueError as `find_given` does."""
        kinds: tuple[tuple[Kind, Mapping[str, Path]], ...] = (
            ("method", self.asked.folders),
            ("restorer", self.asked.restored),
        )
        return tuple(
            find_given(kind, name, folder, self.cases, self.recipe.seed)
            for kind, folders in kinds
            for name, folder in folders.items()
        )

    @cached_property
    def measurement(self) -> Measurement:
        """What the workers are given."""
        return Measurement(
            bundle=read_bundle(self.bundle),
            scenarios=self.scenarios,
            protocol=digest_of([self.recipe.seed, code_of(PROTOCOL)])[:16],
            baselines=self.recipe.baselines,
            given=self.given,
            metrics=metrics_for(self.scenes, self.recipe.metrics),
            extras=extras_of(self.recipe, self.scenes),
            seed=self.recipe.seed,
        )

    @cached_property
    def tags(self) -> dict[str, str]:
        """Digests of model and scenes, and one of the whole."""
        weights = sha256_of_file(self.bundle / "model.safetensors")
        scenes = digest_of([scene.digest for scene in self.scenes])
        pictures = {other.name: other.digests() for other in self.given}
        # Detector and labels count by what they hold, which is in the measurement, not by their paths.
        settings = self.recipe.model_dump(mode="json", exclude={"detector", "labels"})
        how = [settings, inputs_digest(self.measurement)]
        whole = [*how, weights, scenes, pictures]
        return {
            "model": self.asked.model,
            "model_sha256": weights,
            "scenes": self.where,
            "split": self.asked.scenes.split,
            "scenes_digest": scenes,
            "config_digest": digest_of(whole),
        }


@dataclass(frozen=True)
class Evaluation:
    """A subject that is measured into a folder, a scene under a scenario at a time."""

    subject: Subject
    settings: Settings

    @cached_property
    def folder(self) -> Path:
        """Where its rows and its report lie."""
        subject = self.subject
        name = f"{subject.where}-{subject.tags['config_digest'][:12]}"
        return self.settings.work / "reports" / name

    @property
    def is_measured(self) -> bool:
        """Whether the rows of all parts have been joined."""
        return (self.folder / ROWS).is_file()

    @property
    def own_device(self) -> str:
        """The device of this process, for what no worker does: GPUs may be those of other nodes."""
        return "cpu" if self.subject.asked.placement.device == "cpu" else "auto"

    def workers(self) -> AbstractContextManager[Workers]:
        """Ray's workers, or this process."""
        return workers(self.subject.asked.placement, self.settings)

    def measurer(self, device: str) -> CaseMeasurer:
        """What measures its cases, on a device."""
        return CaseMeasurer(
            self.subject.measurement,
            read=source_reader(self.settings),
            load_scores=load_scores,
            device=device,
        )

    @cached_property
    def parts(self) -> dict[Path, Case]:
        """The cases, by the file that each leaves its rows in."""
        return {self._part(case.scene.id, case.scenario.name): case for case in self.subject.cases}

    @cached_property
    def _inputs(self) -> str:
        return inputs_digest(self.subject.measurement)[:16]

    def _part(self, scene: str, scenario: str) -> Path:
        name = f"{self._inputs}-{digest_of([scene, scenario])[:16]}.parquet"
        return self.folder / PARTS / name

    def left(self) -> list[Case]:
        """The cases to measure."""
        left = [case for path, case in self.parts.items() if not path.is_file()]
        done = len(self.parts) - len(left)
        if done:
            print_line(f"  {done} of {len(self.parts)} were measured before, by scene and scenario")
        return left

    def keep(self, rows: Sequence[Row]) -> None:
        """Write the rows of a case."""
        write_rows(rows, self._part(rows[0]["scene"], rows[0]["scenario"]))

    def rows(self) -> list[Row]:
        """The rows of all cases, in order; the report takes the first method for the model."""
        methods = self.subject.measurement.methods
        return sorted(
            (row for path in self.parts for row in read_rows(path)),
            key=lambda row: (row["scenario"], row["scene"], methods.index(row["method"])),
        )


def check_subject(subject: Subject) -> None:
    """Raise ValueError for a row that cannot be measured; print what is left out, and why."""
    _check_names(subject)
    _check_captured(subject)
    system = subject.measurement.bundle.system
    for scenario in subject.scenarios:
        if system.only_linear and not scenario.is_linear:
            raise ValueError(
                f"scenario {scenario.name!r}: {system.name} inverts linear degradations only; leave "
                "it out with --set scenarios=[…]"
            )
    for name in dict.fromkeys((*EVALUATED, *subject.recipe.metrics)):
        if name not in subject.measurement.metrics:
            print_line(
                f"  {name} is left out: it needs {MIN_SIDE_PX[name]} px a side of every scene"
            )


def _check_names(subject: Subject) -> None:
    taken = {MODEL, *BASELINES}
    asked = subject.asked
    for option, folders in (("--method", asked.folders), ("--restore", asked.restored)):
        for name in folders:
            if name in taken or not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(
                    f"{option} {name}: taken, or not of letters, digits, . _ -; choose another name"
                )
            taken.add(name)


def _check_captured(subject: Subject) -> None:
    """Say how many scenes a captured scenario has. Raises ValueError where there is nothing to measure."""
    for scenario in subject.scenarios:
        count = sum(case.scenario == scenario for case in subject.cases)
        if scenario.captured and count < len(subject.scenes):
            files = " and ".join(scenario.natives)
            print_line(
                f"  {scenario.name}: {count or 'none'} of {len(subject.scenes)} scenes has {files}"
            )
    if not subject.cases:
        names = ", ".join(scenario.name for scenario in subject.scenarios)
        raise ValueError(
            f"no scene of split {subject.asked.scenes.split!r} has the files of {names}; captured "
            "scenarios are for data sets with captured pictures of both kinds, such as DSPFusion's"
        )


def inputs_digest(measurement: Measurement) -> str:
    """Digest of the definitions and the code that decide a case's rows.

    A scenario or a baseline may change under its name, and rows from before and after must not meet
    in one table. Any changed file of ours counts; measuring again is cheap.
    """
    settings = measurement.model_dump(mode="json", exclude={"bundle", "given"})
    return digest_of([settings, code_of(_MEASURING)])


def code_of(packages: Iterable[str]) -> dict[str, str]:
    """Digests of the modules of packages, by their paths below the repository."""
    files = sorted(path for name in packages for path in (REPOSITORY / name).rglob("*.py"))
    return {str(path.relative_to(REPOSITORY)): sha256_of_file(path) for path in files}
