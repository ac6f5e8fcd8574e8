import itertools
from types import SimpleNamespace

import pytest
import torch

from models import SYSTEMS
from pipelines.bundles.export import Bundle
from pipelines.evaluation import forecast
from pipelines.evaluation.baselines import source_average
from pipelines.evaluation.forecast import forecast_s
from pipelines.evaluation.measuring import CaseMeasurer, Measurement
from pipelines.scenarios.degraded_pairs import Case
from pipelines.scenarios.table import CLEAN_SCENARIO
from pipelines.sources.scenes import Scene


def test_a_forecast_grows_with_the_cases(
    scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SYSTEMS[-1].tiny()
    bundle = Bundle(source="none", model=model, weights=b"")
    measurement = Measurement(bundle=bundle, scenarios=(CLEAN_SCENARIO,), metrics=("EN",))
    measurer = CaseMeasurer(measurement, {"source_average": source_average})
    cases = [Case(scene, CLEAN_SCENARIO) for scene in scenes[:2]]
    threads = torch.get_num_threads()
    # A clock of which every reading is a second after the one before.
    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    assert forecast_s(measurer, cases) == 2 * forecast_s(measurer, cases[:1]) > 0
    assert torch.get_num_threads() == threads
