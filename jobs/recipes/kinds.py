"""What recipes configure beside a dataset and a training: an evaluation, the gate, weights to ship."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.metrics import METRICS
from pipelines.evaluation.baselines import Baseline
from pipelines.promotion.gate import GateConfig
from pipelines.results.rows import ScoreName
from pipelines.scenarios.table import TABLE, Scenario
from pipelines.store.names import nearest
from pipelines.store.seeding import Seed


class EvaluateRecipe(BaseModel):
    """An evaluation. The average is always among the baselines: a first version is judged against it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scenarios: tuple[str | Scenario, ...]
    """What is done to the pictures before they are fused: names of the table, or scenarios of your own."""
    baselines: tuple[Baseline, ...] = ("average", "maximum")
    """Classical methods to measure too; the average is one of them."""
    steps: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = ()
    """Other numbers of sampling steps to try on the example scenes."""
    num_scenes: int | None = Field(default=None, ge=1)
    """How many scenes of the split; null for all."""
    num_examples: int = Field(default=3, ge=0, le=1000)
    """Scenes that are shown as pictures in the report."""
    seed: Seed = 0
    """Of the degradations that are drawn."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones, such as Q_MI, Q_NCIE, Q_CB, Q_P and Q_W of DRFusion's paper."""
    scores: tuple[ScoreName, ...] = ()
    """Learned scores by pyiqa: LPIPS_target, MUSIQ, PI, TReS."""
    sequence: bool = False
    """Whether the scenes are numbered frames: measures their flicker, too."""
    detector: Path | None = None
    """An ONNX file: what it finds in fused degraded pairs is compared with fused clean ones."""
    labels: Path | None = None
    """A folder of labelled boxes (YOLO, VOC) for the detector's AP; null: beside the visible pictures."""

    @field_validator("scenarios")
    @classmethod
    def _have_names_of_their_own(
        cls, scenarios: tuple[str | Scenario, ...]
    ) -> tuple[str | Scenario, ...]:
        taken = {scenario.name for scenario in TABLE}
        ours = [scenario.name for scenario in scenarios if isinstance(scenario, Scenario)]
        for name in ours:
            if name in taken or ours.count(name) > 1:
                raise ValueError(f"a scenario {name!r} is there already; choose another name")
        return scenarios

    @model_validator(mode="after")
    def _labels_are_for_a_detector(self) -> Self:
        if self.labels and not self.detector:
            raise ValueError(f"labels {self.labels}: they are for a detector; name one, too")
        return self

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS:
                raise ValueError(f"no metric {name!r}{nearest(name, METRICS)}")
        return names

    @field_validator("baselines")
    @classmethod
    def _has_the_average(cls, names: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
        if "average" not in names or len(set(names)) != len(names):
            raise ValueError(f"{list(names)}: name the average, and each baseline once")
        return names


class PromoteRecipe(BaseModel):
    """What the gate asks of a challenger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gate: GateConfig = GateConfig()
    split: str = "val"
    """The split that a version has to be evaluated on."""
    scenarios: Annotated[tuple[str, ...], Field(min_length=1)]
    """The scenarios that are judged; those of an evaluation that are not among them do not count."""
    parity_tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Largest difference of the served program from the evaluated module, in [0, 1]: 1e-3 would be a
    quarter of the smallest step of an 8-bit picture."""


class PretrainRecipe(BaseModel):
    """Weights that come with the repository: what they are trained on, and how, from nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dataset: str
    """Dataset recipe."""
    trainings: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    """Training recipes in order, each from the weights of the one before, and what is set otherwise."""
    evaluation: str = "all"
    """Evaluation recipe, on the split `val`."""
