"""The gate on a real registry, with evaluations whose numbers are made for the case."""

from pathlib import Path
from typing import Any

import pytest

from infra import registry, tracking
from infra.settings import Settings
from jobs.config import PromoteRecipe
from jobs.promote import promote
from models.metrics import METRIC_VERSION, METRICS
from pipelines.evaluation import BASELINE, MODEL, write_rows

NAME = "gated"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    work = tmp_path_factory.mktemp("promote")
    settings = Settings(
        work=work,
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        artifact_root=f"{work}/mlflow-artifacts",
        ray_address=None,
    )
    tracking.connect(settings).create_registered_model(NAME)
    return settings


def rows_of(method: str, level: float) -> list[dict[str, Any]]:
    """Six scenes under two scenarios; every metric lies about `level`."""
    return [
        {
            "scene": f"s{scene}",
            "dataset": "d",
            "scenario": scenario,
            "method": method,
            "reference": "hq",
            "width": 8,
            "height": 8,
            "seconds": 0.1,
            "metric_version": METRIC_VERSION,
            **{metric: level * (1 + 0.001 * scene) for metric in METRICS},
        }
        for scene in range(6)
        for scenario in ("clean", "vi_blur")
    ]


def add_version(settings: Settings, folder: Path, *, level: float, evaluated: bool = True) -> str:
    """Register a version whose evaluation says `level`, while the average is at 1."""
    client = tracking.connect(settings)
    run_id = tracking.open_run(client, name="evaluate", config={}, tags={}).info.run_id
    write_rows(rows_of(MODEL, level) + rows_of(BASELINE, 1.0), folder / run_id / "rows.parquet")
    tracking.log_folder(client, run_id, folder / run_id, "evaluation")
    tags = {"dataset_digest": "d", "git_commit": "c", "stage1": "runs:/x"}
    if evaluated:
        tags["evaluation_run_id"] = run_id
    version = client.create_model_version(NAME, source=str(folder), run_id=run_id, tags=tags)
    client.set_registered_model_alias(NAME, registry.CHALLENGER, version.version)
    return str(version.version)


def champion(settings: Settings) -> str | None:
    held = registry.find_alias(tracking.connect(settings), NAME, registry.CHAMPION)
    return str(held.version) if held else None


def test_the_gate_moves_the_alias_or_says_why_not(settings: Settings, tmp_path: Path) -> None:
    recipe = PromoteRecipe()
    equal = add_version(settings, tmp_path, level=1.0)
    refused = promote(recipe, settings, name=NAME)
    assert (refused.passed, refused.version, refused.champion) == (False, equal, None)
    assert any("first version" in reason for reason in refused.reasons)

    good = add_version(settings, tmp_path, level=1.2)
    assert promote(recipe, settings, name=NAME).passed
    assert champion(settings) == good

    worse = add_version(settings, tmp_path, level=1.1)
    refused = promote(recipe, settings, name=NAME)
    assert (refused.passed, refused.version, refused.champion) == (False, worse, good)
    assert any("VIF" in reason and "vi_blur" in reason for reason in refused.reasons)
    assert champion(settings) == good

    better = add_version(settings, tmp_path, level=1.3)
    assert promote(recipe, settings, name=NAME, version=better).champion == better
    client = tracking.connect(settings)
    previous = registry.find_alias(client, NAME, registry.PREVIOUS)
    assert previous is not None
    assert str(previous.version) == good
    tags = registry.find_model(client, f"models:/{NAME}@champion").tags
    assert tags["promoted_over"] == f"version {good}"
    assert tags["promotion_evidence"] == tags["evaluation_run_id"]
    again = promote(recipe, settings, name=NAME)
    assert (again.passed, again.champion) == (True, better)


def test_without_an_evaluation_nothing_is_promoted(settings: Settings, tmp_path: Path) -> None:
    before = champion(settings)
    number = add_version(settings, tmp_path, level=9.0, evaluated=False)
    with pytest.raises(
        ValueError, match=rf"version {number} lacks evaluation_run_id.*jobs\.evaluate"
    ):
        promote(PromoteRecipe(), settings, name=NAME)
    assert champion(settings) == before
